"""Virtual machines (arch/x86/kvm, virt/kvm)."""
