"""The IOMMU: address spaces of devices and their PASIDs."""
