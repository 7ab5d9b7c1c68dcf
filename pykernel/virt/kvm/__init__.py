"""KVM (virt/kvm, arch/x86/kvm)."""
