from pathlib import Path

import pytest

from llmops import config
from llmops.deploying import deployment


def test_deployment_config_can_be_read_and_its_sample_requests_are_there() -> None:
    if not Path(config.EXPERIMENT).is_file():
        pytest.skip("no flow was brought in yet")
    found = deployment.read(deployment.CONFIG)
    entries = (*found.azure_managed_endpoint, *found.kubernetes_endpoint, *found.webapp_endpoint)
    assert entries
    for entry in entries:
        assert Path(entry.TEST_FILE_PATH).is_file(), entry.TEST_FILE_PATH
