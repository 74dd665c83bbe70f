"""Variables that `accelerate launch` and torchrun set for each process of a run."""

from mimic_qlora.processes import environment


def variables(rank: int, n: int = 2, port: int = 29500) -> dict[str, str]:
    """Return those of one process of n on this host."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}


def launched(monkeypatch, rank: int, n: int = 2) -> None:
    """Let this process be one of n."""
    for name, value in variables(rank, n).items():
        monkeypatch.setenv(name, value)


def alone(monkeypatch) -> None:
    """Let this process be nobody's."""
    for name in (*environment.NUMBERS, *environment.MEETS_AT, "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
