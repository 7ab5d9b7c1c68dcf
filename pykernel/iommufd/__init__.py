"""IOMMUFD: user space's own IO page tables (drivers/iommu/iommufd)."""
