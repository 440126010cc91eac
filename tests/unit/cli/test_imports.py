"""What importing the package costs."""

import subprocess
import sys

HEAVY = ("torch", "nats", "pydantic", "fastapi", "msgspec", "numpy")


def run(code: str) -> str:
    path = f"import sys; sys.path[:] = {sys.path!r}; "
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_sagellm_loads_nothing_heavy() -> None:
    assert run(f"import sagellm; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_the_control_plane_is_loaded_when_it_is_asked_for_and_needs_no_torch() -> None:
    names = "ControlPlaneManager, ExecutionInstance, RequestMetadata, RequestPriority"
    assert run(f"from sagellm import {names}; print('torch' in sys.modules)") == "False"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    assert (
        run("import sagellm; print(hasattr(sagellm, 'nothing'), hasattr(sagellm, 'RequestStatus'))")
        == "False True"
    )
