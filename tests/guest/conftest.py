"""Build the guest's agent with sanitizers and run it on the host, without a VM."""

import fcntl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import FrameClient

GUEST = Path(__file__).resolve().parents[2] / "guest"


def make(build: Path, *targets: str) -> None:
    """Run the guest's Makefile, one worker at a time; fails with its output."""
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "-C", str(GUEST), f"BUILD={build}", *targets], capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def build() -> Path:
    """Where the guest's test binaries are made; kept between runs, for make to compare."""
    return GUEST / "build" / "tests"


@pytest.fixture(scope="session")
def agent_binary(build: Path) -> Path:
    """The agent under AddressSanitizer and UndefinedBehaviorSanitizer."""
    make(build, f"{build}/agent-sanitized")
    return build / "agent-sanitized"


@pytest.fixture
def start_agent(
    agent_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Agent]]:
    """Start agents that have not been greeted; each must end cleanly with the test."""
    agents: list[Agent] = []

    def start() -> Agent:
        agents.append(Agent(agent_binary, tmp_path_factory.mktemp("root")))
        return agents[-1]

    yield start
    for agent in agents:
        if agent.process.poll() is None or not agent.log.closed:
            agent.stop()


@pytest.fixture
def agent(start_agent: Callable[[], Agent]) -> Agent:
    """One agent, greeted."""
    started = start_agent()
    started.client.hello()
    return started


@pytest.fixture
def mounting_agent(agent_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent whose mounts nobody else sees."""
    prefix = ["unshare", "--mount", "--propagation", "private"]
    agent = Agent(agent_binary, tmp_path_factory.mktemp("root"), prefix)
    agent.client.hello()
    yield agent
    if not agent.log.closed:
        agent.stop()


@pytest.fixture
def client(agent: Agent) -> FrameClient:
    """The connection of a greeted agent."""
    return agent.client
