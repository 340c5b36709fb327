from promptflow.core import log_metric, tool


@tool
def share(same: list[bool]) -> float:
    value = sum(same) / len(same)
    log_metric("same", value)
    return value
