#!/usr/bin/env python3
"""Check what `forkpy deploy` prints for Kubernetes by the schemas of its resources, and for HAProxy by HAProxy.

FORKPY_BIN names the program, FORKPY_HAPROXY the balancer (empty: none is here) and FORKPY_HAPROXY_LIBRARIES where its
libraries are.
Exits with 0 when all is well; what could not be checked is said with NOT TESTED.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

# The oldest version that the recipe names, and the newest whose schemas are here.
VERSIONS = ("1.25", kubernetes_validate.latest_version())
KINDS = {"Service", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap", "Deployment"}
# What agents.x-k8s.io/v1beta1 knows of a Sandbox.
SANDBOX_FIELDS = {
    "podTemplate",
    "volumeClaimTemplates",
    "service",
    "shutdownTime",
    "shutdownPolicy",
    "operatingMode",
}

Resource = dict[str, object]


def main() -> int:
    for servers in ("1", "5"):
        kubernetes(printed("kubernetes", "--servers", servers), servers)
        balancer(printed("haproxy", "--servers", servers))
    agent_sandbox(printed("agent-sandbox", "--owner", "ada"))
    store = ("--store", "s3://bucket/forkpy")
    kubernetes(printed("kubernetes", *store), "3")
    with_store(printed("kubernetes", *store))
    agent_sandbox(printed("agent-sandbox", "--owner", "ada", *store))
    print("NOT TESTED: the CRD of agent-sandbox as a whole; its fields, pod and claims were checked")
    if not os.environ["FORKPY_HAPROXY"]:
        print("NOT TESTED: the balancer's configuration, for there is no haproxy here")
    return 0


def printed(*words: str) -> str:
    return subprocess.run(
        [os.environ["FORKPY_BIN"], "deploy", *words], check=True, capture_output=True, text=True
    ).stdout


def kubernetes(text: str, servers: str) -> None:
    resources = list(yaml.safe_load_all(text))
    kinds = {resource["kind"] for resource in resources}
    assert kinds == KINDS, kinds
    for resource in resources:
        check(resource)
    replicas = [resource["spec"]["replicas"] for resource in resources if resource["kind"] == "StatefulSet"]
    assert replicas == [int(servers)], replicas
    for resource in resources:
        if resource["kind"] == "ConfigMap":
            balancer(resource["data"]["haproxy.cfg"])
    # These schemas find what is wrong.
    wrong = copy.deepcopy(next(resource for resource in resources if resource["kind"] == "StatefulSet"))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    refused(wrong)
    wrong = copy.deepcopy(resources[0])
    wrong["spec"]["ports"] = "8000"
    refused(wrong)


def with_store(text: str) -> None:
    """The servers can read the key, have the account, and reach the bucket."""
    resources = list(yaml.safe_load_all(text))
    pod = next(resource for resource in resources if resource["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    words = server["args"]
    key = words[words.index("--store-key") + 1]
    assert words[words.index("--store") + 1] == "s3://bucket/forkpy", words
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert key == f"{mounts['store']}/key", (key, mounts)
    assert {"name": "store", "secret": {"secretName": "forkpy-store"}} in pod["volumes"], pod
    assert server["envFrom"] == [{"secretRef": {"name": "forkpy-store-account"}}], server
    (policy,) = (resource for resource in resources if resource["kind"] == "NetworkPolicy")
    ports = {(rule["port"], rule.get("protocol", "TCP")) for rule in policy["spec"]["egress"][0]["ports"]}
    assert ports == {(443, "TCP"), (53, "TCP"), (53, "UDP")}, ports


def agent_sandbox(text: str) -> None:
    sandbox = yaml.safe_load(text)
    assert (sandbox["apiVersion"], sandbox["kind"]) == ("agents.x-k8s.io/v1beta1", "Sandbox"), sandbox
    assert sandbox["metadata"]["name"] == "forkpy-ada", sandbox
    spec = sandbox["spec"]
    assert set(spec) <= SANDBOX_FIELDS, spec
    assert isinstance(spec["service"], bool), spec
    template = spec["podTemplate"]
    assert set(template) == {"metadata", "spec"}, template
    assert set(template["metadata"]) <= {"labels", "annotations"}, template
    check(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", **template["metadata"]},
            "spec": template["spec"],
        }
    )
    mounted = {mount["name"] for container in template["spec"]["containers"] for mount in container["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    assert mounted == claimed | {volume["name"] for volume in template["spec"]["volumes"]}, mounted
    for claim in spec["volumeClaimTemplates"]:
        check({"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim})


def check(resource: Resource) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(resource, version, strict=True)


def refused(resource: Resource) -> None:
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError:
            continue
        raise AssertionError(resource)


def balancer(config: str) -> None:
    haproxy = os.environ["FORKPY_HAPROXY"]
    if not haproxy:
        return
    libraries = os.environ["FORKPY_HAPROXY_LIBRARIES"]
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "haproxy.cfg"

        def checked(text: str) -> subprocess.CompletedProcess[str]:
            file.write_text(text)
            command = [haproxy, "-c", "-f", str(file)]
            return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)

        done = checked(config)
        assert done.returncode == 0, done
        assert "[WARNING]" not in done.stderr, done
        assert checked(config + "\n    no-such-word\n").returncode != 0


if __name__ == "__main__":
    sys.exit(main())
