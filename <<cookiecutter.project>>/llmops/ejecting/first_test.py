"""The test that comes with an ejected flow: a row through each variant, from recorded answers."""

from __future__ import annotations

from typing import Any

from llmops.ejecting.beside import Ejected
from llmops.ejecting.expressions import literal
from llmops.ejecting.names import no_parameter
from llmops.ejecting.writer import Source


def text(source: Source, ejected: Ejected) -> str:
    """The test's module."""
    flow = f"{source.target.as_posix()}{ejected.entry}"
    row = _row(source)
    head = [f'"""The flow {flow}: a row of the data, from recorded answers."""', ""]
    head += ["from __future__ import annotations", ""]
    if row is None:
        return "\n".join([*head, *_takes(source, flow)])
    head += ["from typing import Any", "", "import pytest", "", "from llmops import trial", ""]
    choices = [{}, *({p: v} for p, names in ejected.variants.items() for v in names[1:])]
    outputs = source.flow.outputs
    checked = (
        f"    assert set(row.outputs or {{}}) == {{{', '.join(map(repr, outputs))}}}"
        if outputs
        else "    assert row.outputs"
    )
    body = [
        f"ROW: dict[str, Any] = {literal(row)}",
        f"VARIANTS: list[dict[str, str]] = {literal(choices)}" if len(choices) > 1 else "",
        "",
        '@pytest.mark.parametrize("variant", VARIANTS, ids=str)' if len(choices) > 1 else "",
        f"def test_a_row({'variant: dict[str, str]' if len(choices) > 1 else ''}) -> None:",
        f"    row = trial.replayed({flow!r}, {'ROW | variant' if len(choices) > 1 else 'ROW'})",
        '    if row.error and row.error.get("code") == "recording_missing":',
        '        pytest.skip("no recorded answer: make record")',
        "    assert row.error is None",
        checked,
    ]
    return "\n".join([*head, *body, ""])


def _row(source: Source) -> dict[str, Any] | None:
    """The first row that has every input; null where another flow's outputs are needed too."""
    needed = {name for name, required in source.flow.inputs.items() if required}
    return next((row for row in source.rows if needed <= row.keys()), None)


def _takes(source: Source, flow: str) -> list[str]:
    """Without a row only that the flow takes what its inputs are."""
    inputs = [name for name in source.flow.inputs if not no_parameter(name)]
    return [
        "from llmops import flows",
        "",
        "def test_its_inputs() -> None:",
        f"    assert set(flows.describe({flow!r}).inputs) >= {set(inputs)!r}"
        if inputs
        else f"    assert flows.describe({flow!r}).kind == 'python'",
        "",
    ]
