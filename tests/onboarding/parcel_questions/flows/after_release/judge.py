from promptflow.core import tool


@tool
def judge(answer: str) -> bool:
    return "please" in answer.lower()
