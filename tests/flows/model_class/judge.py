"""A flex flow of a class that is given a model; each line is one number, not a dict."""

from openai import AzureOpenAI
from promptflow.core import AzureOpenAIModelConfiguration


class Judge:
    def __init__(self, model_config: AzureOpenAIModelConfiguration) -> None:
        self.deployment = model_config.azure_deployment
        self.client = AzureOpenAI(
            azure_endpoint=model_config.azure_endpoint,
            api_key=model_config.api_key,
            api_version=model_config.api_version,
        )

    def __call__(self, text: str):  # type: ignore[no-untyped-def]
        answer = self.client.chat.completions.create(
            model=self.deployment, messages=[{"role": "user", "content": f"Judge this: {text}"}]
        )
        if "Broken" in text:
            raise ValueError("the judge has left")
        return len(answer.choices[0].message.content or "")

    def __aggregate__(self, lengths: list[int]) -> dict[str, float]:
        return {"longest": max(lengths), "mean": sum(lengths) / len(lengths)}
