"""What changes in the request of a VM that begins with a template."""

from __future__ import annotations

from dataclasses import replace

from machinen_runtime import templates
from machinen_runtime.bundle import VM_DIR
from machinen_runtime.launch import TEMPLATE_TIMEOUT_MS, LaunchRequest
from vmm.spec import RestoreSpec


def from_template(request: LaunchRequest, template: templates.Template) -> LaunchRequest:
    """The same VM, begun with a template."""
    files, meta = template.path / VM_DIR, template.meta
    return replace(
        request,
        disk_layers=[files / layer for layer in meta.layers],
        restore=RestoreSpec(
            state=str(files / meta.state),
            ram_image=str(files / meta.ram_image),
            template=True,
            machine_sum=meta.origin.get(templates.MACHINE_SUM, ""),
        ),
        boot_timeout_ms=min(request.boot_timeout_ms, TEMPLATE_TIMEOUT_MS),
        booted="warm",
        note=f"warm boot from template {template.key}",
    )
