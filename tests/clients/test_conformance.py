"""The official conformance suite, over HTTP, for both protocol eras.

Most scenarios call tools, resources and prompts of the suite's own by name ("fixtures"). A forkpy with the cargo
feature `conformance` has them (FORKPY_CONFORMANCE=1 says so): then every scenario must pass. Those of tasks run cells.
Without, those that need fixtures are listed here with what each one asks for, and may fail; every other scenario must
pass. A scenario that this file does not know (a newer suite) must pass in either case.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support import Forkpy, node

if TYPE_CHECKING:
    from pathlib import Path

# Scenarios that need no fixture. That they ran at all is asserted: a suite that skips them proves nothing.
MUST_PASS = {
    "2025-11-25": {
        "server-initialize",
        "ping",
        "completion-complete",
        "tools-list",
        "server-sse-multiple-streams",
        "resources-list",
        "prompts-list",
        "dns-rebinding-protection",
        "server-session-lifecycle",
        "server-sse-polling",
    },
    "2026-07-28": {
        "server-stateless",
        "completion-complete",
        "tools-list",
        "server-sse-multiple-streams",
        "resources-list",
        "prompts-list",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "caching",
        "input-required-result-missing-input-response",
        "input-required-result-unsupported-methods",
        "input-required-result-ignore-extra-params",
        "input-required-result-validate-input",
        "http-header-validation",
        "tasks-status-notifications",
    },
}

# Scenario -> the fixture that it cannot do without.
NEEDS_FIXTURE = {
    "logging-set-level": "capability logging, which forkpy has no use for",
    "tools-call-simple-text": "tool test_simple_text",
    "tools-call-image": "tool test_image_content",
    "tools-call-audio": "tool test_audio_content",
    "tools-call-embedded-resource": "tool test_embedded_resource",
    "tools-call-mixed-content": "tool test_multiple_content_types",
    "tools-call-with-logging": "tool test_tool_with_logging",
    "tools-call-error": "tool test_error_handling",
    "tools-call-with-progress": "tool test_tool_with_progress",
    "tools-call-sampling": "tool test_sampling",
    "tools-call-elicitation": "tool test_elicitation",
    "elicitation-sep1034-defaults": "tool test_elicitation_sep1034_defaults",
    "elicitation-sep1330-enums": "tool test_elicitation_sep1330_enums",
    "json-schema-2020-12": "tool json_schema_2020_12_tool",
    "resources-read-text": "resource test://static-text",
    "resources-read-binary": "resource test://static-binary",
    "resources-templates-read": "resource template test://template/{id}/data",
    "resources-subscribe": "resource test://watched-resource",
    "resources-unsubscribe": "resource test://watched-resource",
    "prompts-get-simple": "prompt test_simple_prompt",
    "prompts-get-with-args": "prompt test_prompt_with_arguments",
    "prompts-get-embedded-resource": "prompt test_prompt_with_embedded_resource",
    "prompts-get-with-image": "prompt test_prompt_with_image",
    "input-required-result-basic-elicitation": "tool test_input_required_result_elicitation",
    "input-required-result-basic-sampling": "tool test_input_required_result_sampling",
    "input-required-result-basic-list-roots": "tool test_input_required_result_list_roots",
    "input-required-result-request-state": "tool test_input_required_result_request_state",
    "input-required-result-multiple-input-requests": "tool test_input_required_result_multiple_inputs",
    "input-required-result-multi-round": "tool test_input_required_result_multi_round",
    "input-required-result-non-tool-request": "prompt test_input_required_result_prompt",
    "input-required-result-result-type": "tool test_input_required_result_elicitation",
    "input-required-result-tampered-state": "tool test_input_required_result_tampered_state",
    "input-required-result-capability-check": "tool test_input_required_result_capabilities",
    "http-custom-header-server-validation": "a tool with an x-mcp-header argument",
    "tasks-lifecycle": "tools greet, slow_compute, failing_job",
    "tasks-capability-negotiation": "tool slow_compute",
    "tasks-wire-fields": "tool slow_compute",
    "tasks-request-state-removal": "tool slow_compute",
    "tasks-mrtr-input": "tools confirm_delete, multi_input",
    "tasks-request-headers": "tools greet, slow_compute",
    "tasks-dispatch-and-envelope": "tools greet, slow_compute, failing_job",
    "tasks-required-task-error": "tool failing_job",
    "tasks-mrtr-composition": "tool test_tool_with_task",
}

# Single checks, within scenarios that must pass, that need a diagnostic tool.
CHECK_NEEDS_FIXTURE = {
    ("server-stateless", "sep-2575-server-rejects-undeclared-capability"): "tool test_missing_capability",
    ("server-stateless", "sep-2575-missing-capability-http-400"): "tool test_missing_capability",
    ("server-stateless", "sep-2575-http-server-no-independent-requests-on-stream"): "tool test_streaming_elicitation",
    ("server-stateless", "sep-2575-server-no-log-without-loglevel"): "tool test_logging_tool",
}

# Warnings do not fail a scenario. These are the ones that only a fixture could silence; another one is a finding.
WARNING_NEEDS_FIXTURE = {
    ("server-sse-polling", "server-sse-disconnect-resume"): "tool test_reconnection",
    ("server-sse-polling", "server-sse-test-reconnection-tool"): "tool test_reconnection",
    (
        "input-required-result-missing-input-response",
        "sep-2322-missing-response-rerequests",
    ): "tool test_input_required_result_elicitation",
    (
        "input-required-result-ignore-extra-params",
        "sep-2322-ignore-unexpected-params",
    ): "tool test_input_required_result_elicitation",
}


# The server has the fixtures; what is still excused has none.
if os.environ.get("FORKPY_CONFORMANCE") == "1":
    MUST_PASS["2026-07-28"] |= {name for name in NEEDS_FIXTURE if name.startswith("tasks-")}
    NEEDS_FIXTURE = {}
    CHECK_NEEDS_FIXTURE = {}
    WARNING_NEEDS_FIXTURE = {key: what for key, what in WARNING_NEEDS_FIXTURE.items() if "reconnection" in what}


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_conformance(tmp_path: Path, revision: str) -> None:
    # Fixtures of tasks take longer than calls wait here.
    with Forkpy("http", tmp_path, "--wait", "0.3") as server:
        outcomes = run_suite(server.url, revision, tmp_path / "results")

    missing = MUST_PASS[revision] - set(outcomes)
    assert not missing, f"the suite did not run {sorted(missing)}"

    findings = []
    for scenario, checks in sorted(outcomes.items()):
        for check in checks:
            status, name = check["status"], check["id"]
            excused = (
                scenario in NEEDS_FIXTURE
                or (status == "FAILURE" and (scenario, name) in CHECK_NEEDS_FIXTURE)
                or (status == "WARNING" and (scenario, name) in WARNING_NEEDS_FIXTURE)
            )
            # What the server puts on the wire must be valid in every scenario, excused or not.
            if status in ("FAILURE", "WARNING") and (not excused or name == "wire-schema-valid"):
                findings.append(f"{status} {scenario}: {name}: {check.get('errorMessage', '')}")
    assert not findings, "\n".join(["", *findings])

    passed = [
        scenario for scenario, checks in outcomes.items() if not any(check["status"] == "FAILURE" for check in checks)
    ]
    stale = sorted(set(passed) & set(NEEDS_FIXTURE))
    assert not stale, f"these pass now and need no excuse any more: {stale}"


def run_suite(url: str, revision: str, results: Path) -> dict[str, list[dict[str, Any]]]:
    """Every scenario of the revision with its checks. The exit status is no use: it counts fixtures as failures."""
    path, directory = node()
    suite = directory / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    done = subprocess.run(
        [path, str(suite), "server", "--url", url, "--requirements", revision, "--output-dir", str(results)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=directory,
    )
    print(done.stdout[-8000:])
    print(done.stderr[-4000:])
    outcomes = {}
    for file in results.glob("server-*/checks.json"):
        # server-<scenario>-<time stamp>
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\dTZ:.-]+$", "", file.parent.name).removeprefix("server-")
        outcomes[scenario] = json.loads(file.read_text())
    assert outcomes, f"the suite left no results (exit status {done.returncode})"
    failed_to_run = re.findall(r"^Failed to run scenario (\S+?):?$", done.stdout + done.stderr, re.MULTILINE)
    assert not failed_to_run, failed_to_run
    return outcomes
