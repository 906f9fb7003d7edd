from pathlib import Path

import mhc_vision

PACKAGE = Path(mhc_vision.__file__).parent


def files_with(text: str) -> set[str]:
    return {path.name for path in PACKAGE.rglob("*.py") if text in path.read_text() and "kernels" not in path.parts}


def test_what_graphs_and_scripts_ask_of_the_code_stays_in_few_files():
    assert files_with("fx.wrap(") == {"ops.py"}
    # where it is chosen what runs: with observers or without, fused or block by block
    assert files_with("is_scripting()") == {"connection.py", "stack.py"}
