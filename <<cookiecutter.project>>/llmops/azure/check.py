"""Whether a deployed flow answers: the sample request, sent to it and to each deployment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llmops.azure import specification, workspace
from llmops.azure.online import Online
from llmops.azure.specification import Case
from llmops.deploying import probe, rollout
from llmops.deploying.endpoint_report import TIMES, report
from llmops.deploying.probe import Verdict
from llmops.settings import Settings


def check(settings: Settings) -> int:
    """Send the sample request to the endpoint and to each deployment with traffic; 2 if one fails.

    Raises:
        UserError: as `deploy`.
    """
    case = specification.read(settings)
    name = case.entry.ENDPOINT_NAME
    with workspace.explained(case.where):
        online = Online(case.where, workspace.client(case.where))
        if (found := online.find(name)) is None:
            raise rollout.absent(name)
        tester = Tester(online, case)
        verdicts = {"": tester.ask(found.url, "", TIMES)}
        verdicts |= {d: tester.ask(found.url, d, TIMES) for d in found.traffic}
    return report(case, found, verdicts)


@dataclass
class Tester:
    """Sends the case's request to an endpoint, with its key, which never leaves this object."""

    online: Online
    case: Case
    _key: str = field(default="", repr=False)

    def ask(self, url: str, deployment: str, times: int = 1) -> Verdict:
        """The verdict on one deployment, or on the endpoint where none is named."""
        if not self._key:
            self._key = self.online.key(self.case.entry.ENDPOINT_NAME)
        # The SDK's own `invoke` keeps the deployment's header for later calls.
        headers = {"Authorization": f"Bearer {self._key}"}
        if deployment:
            headers["azureml-model-deployment"] = deployment
        outputs = self.case.flow.outputs
        verdict = probe.ask(url, headers, self.case.request, outputs, times)
        return replace(verdict, problem=self.case.mask(verdict.problem))
