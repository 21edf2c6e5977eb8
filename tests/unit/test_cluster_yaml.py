import copy
import re
import shlex
import tomllib
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text())
NODE_TYPES = CONFIG["available_node_types"]
WORKERS = sorted(NODE_TYPES.keys() - {CONFIG["head_node_type"]})
SPOT = {"MarketType": "spot"}


def check_as_ray_up(config):
    filled = prepare_config(copy.deepcopy(config))
    validate_config(filled)
    return filled


@pytest.fixture(scope="module")
def resources():
    """Give the resources of each node type, as Ray computes them; moto answers for AWS."""
    machines = sorted({node["node_config"]["InstanceType"] for node in NODE_TYPES.values()})
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        ec2 = boto3.client("ec2", region_name=CONFIG["provider"]["region"])
        known = ec2.describe_instance_types(InstanceTypes=machines)["InstanceTypes"]
        patch.setattr(node_provider, "list_ec2_instances", lambda *_: known)
        fill = node_provider.AWSNodeProvider.fillout_available_node_types_resources
        filled = fill(check_as_ray_up(CONFIG))
    validate_config(filled)
    return {name: node["resources"] for name, node in filled["available_node_types"].items()}


def ray_start(role):
    (command,) = (c for c in CONFIG[f"{role}_start_ray_commands"] if "ray start" in c)
    return command


def is_spot(node_type):
    return NODE_TYPES[node_type]["node_config"].get("InstanceMarketOptions") == SPOT


def test_ray_accepts_file():
    assert check_as_ray_up(CONFIG)["cluster_name"] == "digitsum"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_wrokers": 3}, "max_wrokers"),
        ({"max_workers": "many"}, "'many' is not of type 'integer'"),
        ({"setup_commands": ["true", 1]}, "1 is not of type 'string'"),
        ({"auth": {"user": "ubuntu"}}, "'user' was unexpected"),
        ({"available_node_types": NODE_TYPES | {"bare": {}}}, "is a required property"),
        ({"head_node_type": "nobody"}, "head_node_type"),
    ],
)
def test_ray_refuses_mistake(change, complaint):
    with pytest.raises((jsonschema.ValidationError, ValueError), match=complaint):
        check_as_ray_up(CONFIG | change)


def test_cluster_grows_and_shrinks():
    limits = [NODE_TYPES[name]["max_workers"] for name in WORKERS]
    assert 0 < min(limits) < sum(limits) <= CONFIG["max_workers"]
    filled = check_as_ray_up(CONFIG)["available_node_types"]
    assert {node["min_workers"] for node in filled.values()} == {0}
    assert CONFIG["idle_timeout_minutes"] > 0


def test_worker_types(resources):
    kinds = {("GPU" in resources[name], is_spot(name)) for name in WORKERS}
    assert kinds == {(True, False), (True, True), (False, True)}
    assert NODE_TYPES["gpu_spot"]["priority"] > NODE_TYPES["gpu"].get("priority", 0)
    for name in WORKERS:  # more CPUs than GPUs, to load images
        assert resources[name]["CPU"] > resources[name].get("GPU", 0)


def test_head_takes_no_work(resources):
    head = CONFIG["head_node_type"]
    assert resources[head] == {"CPU": 0}
    assert NODE_TYPES[head]["max_workers"] == 0
    assert not is_spot(head)


def test_driver_image_on_gpus_only(resources):
    for name, node in NODE_TYPES.items():
        assert ("nvidia-driver" in node["node_config"]["ImageId"]) == ("GPU" in resources[name])


def test_dashboard_on_localhost_only():
    hosts = re.findall(r"--dashboard-host[= ](\S+)", yaml.safe_dump(CONFIG, width=10_000))
    assert hosts == ["127.0.0.1"]
    assert "--dashboard-host=127.0.0.1" in shlex.split(ray_start("head"))


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_starts_with_token(role):
    before, _ = ray_start(role).split("ray start")
    settings = shlex.split(before.replace(";", " "))
    assert "RAY_AUTH_MODE=token" in settings
    assert "RAY_USAGE_STATS_ENABLED=0" in settings
    assert CONFIG[f"{role}_start_ray_commands"][0].endswith("ray stop")


def test_head_runs_autoscaler():
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in shlex.split(ray_start("head"))
    assert any("boto3" in command for command in CONFIG["head_setup_commands"])


def test_token_on_each_node_is_private():
    assert CONFIG["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in CONFIG["setup_commands"]


def test_pip_installs_use_pins():
    filled = check_as_ray_up(CONFIG)
    for role in ("head", "worker"):
        installs = [c for c in filled[f"{role}_setup_commands"] if "~/venv/bin/pip install" in c]
        assert any("-c constraints.txt -e ." in command for command in installs)
        assert all("constraints.txt" in command for command in installs)


def test_installation_files_are_mounted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], "digitsum", "jobs"}
    mounts = CONFIG["file_mounts"]
    assert {f"~/digitsum/{path}": path for path in needed}.items() <= mounts.items()


def test_file_names_no_account():
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"/home/|/root/|/work/|https?://|\b\d{12}\b|\bami-[0-9a-f]{8,}|arn:", text)
