"""What the rest of the kernel stands on, as in the kernel's own lib/: parsing, IDs, references, notifiers, faults."""
