"""The report: what was run, what took effect against its floor, what the auditor found."""


def render(settings, command, machine, seconds, journal, floors, verdicts, ledger, notes, findings) -> str:
    """Markdown."""
    lines = [
        f"# Campaign, seed {settings.seed}: {'FAILED' if findings else 'passed'}",
        "",
        f"`{command}`",
        "",
        f"{machine}. {seconds / 60:.1f} minutes of faults, {settings.residents} servers and up to 2 guests in each of the fleets "
        f"{', '.join(settings.fleets)}; {'Apache Kafka' if settings.real_kafka else 'the embedded broker'}.",
        "",
        *([f"Every other process was of another version: {settings.beside.name}.", ""] if settings.beside else []),
        f"{ledger['events']:,} events; {ledger['transactions']['committed']:,} transactions committed, "
        f"{ledger['transactions']['aborted']:,} aborted; {ledger['letters']:,} events that cannot be taken.",
        "",
        "| storage | lost | twice | commits and merges by table | dead letters |",
        "|---|---|---|---|---|",
    ]
    for name, verdict in verdicts.items():
        tables = "; ".join(f"{table}: {facts['kinds']}" for table, facts in verdict.facts.items() if "kinds" in facts)
        held = verdict.facts.get("dead letters", {})
        letters = f"{held.get('held')} of {held.get('expected')}, {held.get('twice')} twice"
        lines.append(f"| {name} | {verdict.lost} | {verdict.twice} | {tables} | {letters} |")
    lines += ["", "| fault that took effect | times | floor | tried |", "|---|---|---|---|"]
    for kind in sorted(set(journal.effects) | set(floors)):
        lines.append(f"| {kind} | {journal.effects[kind]:,} | {floors.get(kind, '')} | {journal.tried.get(kind, '')} |")
    if notes:
        lines += ["", "Notes:", "", *(f"* {note}" for note in notes)]
    if findings:
        lines += ["", "Findings:", "", *(f"* {finding}" for finding in findings)]
    return "\n".join(lines) + "\n"
