from promptflow.core import tool


@tool
def compare(truth: str, answer: str) -> bool:
    return truth.strip().lower() in answer.lower()
