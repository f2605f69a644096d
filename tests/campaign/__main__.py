"""The command line of a campaign.

    python -m campaign --minutes 60 --seed 7
    python -m campaign --short                 what CI runs

Exit codes: 0 nothing found and every floor reached, 1 a violation or too few faults, 2 the command line is wrong, 77
what it needs is not installed.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

SKIPPED = 77


def arguments():
    parser = argparse.ArgumentParser(prog="campaign", description="Faults against the real binary, decided by an auditor of its own.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--binary", type=pathlib.Path, default=None, help="default: target/release/alluvium, then target/debug/alluvium")
    parser.add_argument("--folder", type=pathlib.Path, default=None, help="where everything is kept (default: a temporary folder)")
    parser.add_argument("--port", type=int, default=21900, help="the first of two hundred ports, of which free ones are taken")
    parser.add_argument("--rate", type=int, default=15_000, help="events a second")
    parser.add_argument("--residents", type=int, default=3, help="servers in each fleet")
    parser.add_argument("--fleets", default="disk,lake", help="disk, lake (S3) or both")
    parser.add_argument("--kafka", choices=("auto", "real", "embedded"), default="auto", help="auto: real where Java is")
    parser.add_argument("--disk-mib", type=int, default=4096, help="size of the file system that is filled")
    parser.add_argument("--only", choices=("all", "faults", "halts"), default="all", help="halts: what must stop a pipeline, by design")
    parser.add_argument("--report", type=pathlib.Path, default=None, help="where the report goes too")
    parser.add_argument("--short", action="store_true", help="two minutes, two servers in each fleet, less load")
    asked = parser.parse_args()
    if asked.short:
        asked.minutes, asked.residents, asked.rate, asked.disk_mib = 2, 2, min(asked.rate, 3_000), 512
    return asked


def main() -> int:
    asked = arguments()
    # So that the children end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        import boto3  # noqa: F401
        import confluent_kafka  # noqa: F401
        import duckdb  # noqa: F401
        import moto.server  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error.name} is not installed; see tests/python/requirements.txt", file=sys.stderr)
        return SKIPPED
    from . import floors, report
    from .campaign import Campaign, Settings

    root = pathlib.Path(__file__).resolve().parents[2]
    binary = asked.binary or next((path for path in (root / "target/release/alluvium", root / "target/debug/alluvium") if path.exists()), None)
    if binary is None or not binary.exists():
        print(f"no binary at {binary}; build one with `cargo build --bin alluvium`", file=sys.stderr)
        return 2
    folder = asked.folder or pathlib.Path(tempfile.mkdtemp(prefix=f"campaign-{asked.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    real = asked.kafka == "real" or (asked.kafka == "auto" and shutil.which("java") is not None)
    settings = Settings(
        minutes=asked.minutes,
        seed=asked.seed,
        folder=folder.resolve(),
        binary=binary.resolve(),
        port=asked.port,
        rate=asked.rate,
        residents=asked.residents,
        fleets=tuple(asked.fleets.split(",")),
        real_kafka=real,
        disk_mib=asked.disk_mib,
    )
    print(f"seed {settings.seed}, evidence in {settings.folder}", flush=True)
    campaign = Campaign(settings)
    findings: list[str] = []
    try:
        campaign.start()
        began = time.monotonic()
        campaign.run()
        seconds = time.monotonic() - began
        verdicts = campaign.finish()
        journal, ledger = campaign.journal, campaign.ledger
        journal.effect("aborted transaction", ledger["transactions"]["aborted"])
        journal.effect("dead letter", ledger["letters"])
        if (counted := campaign.kafka.rebalances()) is not None:
            campaign.notes.append(f"by the broker's own books the groups went through {counted} generations")
            journal.effects["rebalance"] = min(counted, journal.effects["rebalance"])
        missing = [] if real else list(floors.NEEDS_KAFKA)
        if campaign.disk is None:
            missing.append("disk full")
        if campaign.s3 is None:
            missing += ["s3", "ambiguous", "slow store"]
        if any("faketime" in note for note in campaign.notes):
            missing.append("commit with a wrong clock")
        asked_for = floors.floors(settings.minutes, missing)
        findings += [finding for verdict in verdicts.values() for finding in verdict.findings]
        findings += campaign.journal.surprises
        findings += [f"too few faults took effect: {kind} {journal.effects[kind]} of {least}" for kind, least in asked_for.items() if journal.effects[kind] < least]
        if ledger["doubts"]:
            campaign.notes += [f"the ledger has a doubt: {doubt}" for doubt in ledger["doubts"][:10]]
        if campaign.broken_actions:
            campaign.notes.append(f"{campaign.broken_actions} actions broke off, see schedule.ndjson")
        text = report.render(settings, "python -m campaign " + " ".join(sys.argv[1:]), machine(), seconds, journal, asked_for, verdicts, ledger, campaign.notes, findings)
        (settings.folder / "report.md").write_text(text)
        if asked.report:
            asked.report.write_text(text)
        print(text)
    except BaseException:
        findings.append("the campaign broke off")
        raise
    finally:
        campaign.close(keep=bool(findings))
    if findings:
        print(f"FAILED; evidence in {settings.folder}")
        return 1
    if asked.folder is None:
        shutil.rmtree(settings.folder)
    return 0


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} cores, {memory} GiB"


if __name__ == "__main__":
    sys.exit(main())
