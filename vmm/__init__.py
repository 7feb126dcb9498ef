"""The monitor: one process beside each VM, which owns QEMU and serves the VM's sockets."""
