"""The command line of a campaign.

    python -m campaign --minutes 60 --seed 7
    python -m campaign --short                 what CI runs
    python -m campaign --only trials --trial recovery

Exit codes: 0 nothing found and every floor reached, 1 a violation, 2 the command line is wrong, 3 no violation but too few faults, 77
what it needs is not installed.
"""

import argparse
import faulthandler
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

SKIPPED = 77
TOO_FEW = 3
# How a finding begins that is no more than a floor that was not reached.
BELOW = "too few faults took effect: "
# Beyond the faults themselves: start, catching up, draining, audit, verifying, scenarios, and what they may wait for each other.
AROUND = 55 * 60
# The same of a short one, which takes less than two minutes for it when nothing is late.
AROUND_SHORT = 20 * 60


def arguments():
    description = "Faults against the real binary, decided by an auditor of its own."
    parser = argparse.ArgumentParser(prog="campaign", description=description)
    parser.add_argument("--minutes", type=float, default=None, help="default: 60, of a trial what it takes")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--binary", type=pathlib.Path, default=None, help="default: release/alluvium in the target folder, then debug/alluvium")
    parser.add_argument("--beside", type=pathlib.Path, default=None, help="the binary of another version: every other process is of it")
    parser.add_argument("--folder", type=pathlib.Path, default=None, help="where everything is kept (default: a temporary folder)")
    parser.add_argument("--port", type=int, default=21900, help="the first of two hundred ports, of which free ones are taken")
    parser.add_argument("--rate", type=int, default=17_000, help="events a second")
    parser.add_argument("--residents", type=int, default=3, help="servers in each fleet")
    parser.add_argument("--fleets", default="disk,lake", help="disk, lake (S3) or both")
    parser.add_argument("--kafka", choices=("auto", "real", "embedded"), default="auto", help="auto: real where Java is")
    parser.add_argument("--disk-mib", type=int, default=4096, help="size of the file system that is filled")
    parts = "scenarios: what must stop a pipeline by design, and what was found before; trials: three questions with a bound each"
    parser.add_argument("--only", choices=("all", "faults", "scenarios", "trials"), default="all", help=parts)
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help="of the scenarios this one (default: all)")
    parser.add_argument("--trial", choices=("recovery", "poison", "load"), action="append", help="of the trials this one (default: all)")
    parser.add_argument("--kills", type=int, default=15, help="recovery: kills of each table's server")
    parser.add_argument("--rows", type=int, default=10_000_000, help="recovery: rows of the large table")
    parser.add_argument("--report", type=pathlib.Path, default=None, help="where the report goes too")
    parser.add_argument("--short", action="store_true", help="two minutes, two servers in each fleet, less load")
    asked = parser.parse_args()
    if asked.short:
        asked.minutes, asked.residents, asked.rate, asked.disk_mib, asked.only = 2, 2, min(asked.rate, 3_000), 512, "faults"
    if asked.scenario:
        if asked.short or asked.trial or asked.only not in ("all", "scenarios"):
            parser.error("--scenario runs scenarios alone")
        asked.only = "scenarios"
    if asked.trial and asked.only == "all":
        asked.only = "trials"
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
    root = pathlib.Path(__file__).resolve().parents[2]
    built = [pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / profile / "alluvium" for profile in ("release", "debug")]
    binary = asked.binary or next((path for path in built if path.exists()), built[-1])
    if not binary.exists():
        print(f"no binary at {binary}; build one with `cargo build --bin alluvium`", file=sys.stderr)
        return 2
    folder = asked.folder or pathlib.Path(tempfile.mkdtemp(prefix=f"campaign-{asked.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    if asked.only == "trials":
        return tried(asked, folder.resolve(), binary.resolve())
    from .campaign import Settings

    settings = Settings(
        minutes=asked.minutes or 60,
        seed=asked.seed,
        folder=folder.resolve(),
        binary=binary.resolve(),
        beside=asked.beside and asked.beside.resolve(),
        port=asked.port,
        rate=asked.rate,
        residents=asked.residents,
        fleets=tuple(asked.fleets.split(",")),
        real_kafka=asked.kafka == "real" or (asked.kafka == "auto" and shutil.which("java") is not None),
        disk_mib=asked.disk_mib,
    )
    print(f"seed {settings.seed}, evidence in {settings.folder}", flush=True)
    end_in_time(settings.minutes * 60 + (AROUND_SHORT if asked.short else AROUND))
    text, findings = "", []
    if asked.only in ("all", "faults"):
        text, findings = faults(settings)
    if asked.only == "scenarios" and not settings.real_kafka:
        print("skipped: scenarios need a real Kafka, and java is missing; Debian package openjdk-17-jre-headless", file=sys.stderr)
        return SKIPPED
    if asked.only in ("all", "scenarios") and settings.real_kafka:
        more, found = apart(settings, asked.scenario)
        text, findings = text + more, findings + found
    return told(asked, settings.folder, text, findings)


def tried(asked, folder: pathlib.Path, binary: pathlib.Path) -> int:
    """The trials alone."""
    from . import trials

    if shutil.which("java") is None:
        print("skipped: the trials need a real Kafka, and java is missing; Debian package openjdk-17-jre-headless", file=sys.stderr)
        return SKIPPED
    names = list(dict.fromkeys(asked.trial or trials.TRIALS))
    lengths = {"minutes": asked.minutes, "kills": asked.kills, "rows": asked.rows}
    settings = trials.Asked(folder=folder, binary=binary, port=asked.port, seed=asked.seed, **lengths)
    print(f"trials {', '.join(names)}, seed {settings.seed}, evidence in {folder}", flush=True)
    end_in_time(trials.patience(names, settings) + 120)
    return told(asked, folder, *trials.run(names, settings))


def told(asked, folder: pathlib.Path, text: str, findings: list[str]) -> int:
    """Leaves the report; the exit code."""
    (folder / "report.md").write_text(text)
    if asked.report:
        asked.report.write_text(text)
    print(text)
    if findings:
        print(f"FAILED; evidence in {folder}")
        return TOO_FEW if all(finding.startswith(BELOW) for finding in findings) else 1
    if asked.folder is None:
        shutil.rmtree(folder)
    return 0


def end_in_time(seconds: float):
    """A campaign that does not end tells where each thread stands, ends what it started, and fails."""

    def watch():
        time.sleep(seconds)
        print(f"FAILED: the campaign did not end within {seconds:.0f} s; its threads stand here:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        from .kafka import clean_all
        from .processes import end_all

        end_all()
        clean_all()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    # And if not even that can be done, as while Python itself ends: from outside of Python.
    faulthandler.dump_traceback_later(seconds + 120, exit=True)


def faults(settings) -> tuple[str, list[str]]:
    """The faults that a pipeline must live through: report and findings."""
    from . import floors, report
    from .campaign import Campaign

    campaign = Campaign(settings)
    findings, broke_off = [], True
    try:
        campaign.start()
        began = time.monotonic()
        campaign.run()
        seconds = time.monotonic() - began
        verdicts = campaign.finish()
        journal, ledger = campaign.journal, campaign.ledger
        asked_for = floors.floors(settings.minutes, campaign.missing())
        if settings.beside:
            asked_for["kill of another version"] = asked_for["kill"] // 4
        findings += [finding for verdict in verdicts.values() for finding in verdict.findings]
        findings += journal.surprises
        findings += [
            f"{BELOW}{kind} {journal.effects[kind]} of {least}"
            for kind, least in asked_for.items()
            if journal.effects[kind] < least
        ]
        command = "python -m campaign " + " ".join(sys.argv[1:])
        text = report.render(settings, command, machine(), seconds, journal, asked_for, verdicts, ledger, campaign.notes, findings)
        broke_off = False
        return text, findings
    finally:
        campaign.close(keep=broke_off or bool(findings))


def apart(settings, only: list[str]) -> tuple[str, list[str]]:
    """Scenarios, each in a site of its own."""
    from . import scenarios
    from .kafka import Kafka

    if unknown := set(only) - {name for name, *_ in scenarios.SCENARIOS}:
        print(f"no scenario {', '.join(unknown)}; there are: {', '.join(name for name, *_ in scenarios.SCENARIOS)}", file=sys.stderr)
        sys.exit(2)
    kafka = Kafka(settings.folder / "kafka-scenarios", settings.port, len(scenarios.SEATS), settings.binary)
    try:
        outcomes = scenarios.run(settings.folder, kafka, settings.binary, only)
    finally:
        kafka.close()
    lines = ["", "| scenario | outcome |", "|---|---|"]
    lines += [f"| {name} | {'; '.join(found) or 'as it must be'} |" for name, found in outcomes.items()]
    return "\n".join(lines) + "\n", [finding for found in outcomes.values() for finding in found]


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} cores, {memory} GiB"


if __name__ == "__main__":
    sys.exit(main())
