"""What must stop a pipeline, or some of its partitions, by design.

Owns these: a topic that is created again, retention that passes, a log that is cut off, a schema break. In each the server must say that
it stands still and why, must not skip anything, and what it has committed must stay right; and where there is a way on, it must be
the one that the server names.
"""

import re

from .. import events
from ..fleet import NOTHING
from .site import Site


def created_again_while_read(site: Site) -> list[str]:
    site.begin(1_500)
    site.created_again()
    site.produce(3_000, counted=False)
    return site.halted("created again") + site.answers() + site.audited()


def created_again_while_away(site: Site) -> list[str]:
    """With more events than before, so that no offset gives it away."""
    site.begin(1_500)
    site.server.drained(45)
    site.created_again()
    site.produce(3_000, counted=False)
    site.server.start()
    return site.halted("created again") + site.answers() + site.audited()


def restored(site: Site) -> list[str]:
    """The same events at the same offsets in a topic with another id: it halts, and goes on at the operator's word."""
    site.begin(1_500)
    site.server.drained(45)
    site.created_again()
    site.restore()
    site.server.start()
    found = site.halted("created again")
    word = re.search(r"continued_by: {[^:{}]+: (\d+)}", next(iter((site.server.status() or NOTHING).halted.values()), ""))
    if not word:
        return found or [f"{site.name}: the halt does not say what to write"]
    site.server.drained(45)
    pipeline = site.pipeline(site.server)
    topics = next(line for line in pipeline.read_text().splitlines(True) if "topics:" in line)
    more = topics[: len(topics) - len(topics.lstrip())] + f"continued_by: {{{site.topic}: {word[1]}}}\n"
    pipeline.write_text(pipeline.read_text().replace(topics, topics + more))
    site.server.start()
    site.produce(600)
    return found + site.goes_on() + site.audited()


def created_again_with_less(site: Site) -> list[str]:
    site.begin(3_000)
    site.server.drained(45)
    site.created_again()
    site.produce(300, counted=False)
    site.server.start()
    return site.halted("created again", "the log ends at") + site.answers() + site.audited()


def retention_passes(site: Site) -> list[str]:
    """What it removed unread is passed over at the operator's word, and told ever after."""
    site.begin(1_500)
    site.server.drained(45)
    gaps = {partition: (at, at + 100) for partition, at in site.fleet.reached().items()}
    site.produce(1_500)
    site.kafka.forget(site.topic, {partition: end for partition, (_, end) in gaps.items()})
    site.server.start()
    found = site.halted("alluvium seek PIPELINE --partition P --to earliest") + site.answers()
    site.pass_over(gaps)
    code, said = site.commanded("seek", site.fleet.pipeline, "--partition", "all", "--to", "earliest")
    if code or "600 offsets will never be read" not in said:
        return [*found, f"{site.name}: seek ends with {code}: {said}"]
    found += site.goes_on()
    for table in site.fleet.logs:
        code, said = site.commanded("audit", table)
        wrong = [place for place, (start, end) in gaps.items() if f"offsets {start} to {end - 1} of partition {site.topic}/{place}" not in said]
        if code != 1 or wrong:
            found.append(f"{site.name}: audit of {table} ends with {code} and does not tell the gaps of {wrong}: {said}")
    return found + site.audited()


def begin_by_and_by(site: Site):
    """In several batches of records, of which a log can lose some."""
    site.begin(300)
    for _ in range(4):
        site.produce(300)
    site.wait_until_counted()


def cut_off(site: Site) -> list[str]:
    """The log loses its end with the broker; what was counted of it is no longer there."""
    begin_by_and_by(site)
    site.server.drained(45)
    site.kafka.cut_off(site.topic)
    site.server.start()
    # librdkafka does not ask for the end of a leader's time.
    words = "the log was cut off at" if site.server.drain == "direct" else "the log ends at"
    return site.halted(words) + site.answers() + site.audited()


def cut_off_and_grown(site: Site) -> list[str]:
    """And others stand in its place, beyond the recorded offset, so that no offset gives it away."""
    begin_by_and_by(site)
    site.server.drained(45)
    site.kafka.cut_off(site.topic)
    site.produce(3_000, counted=False)
    site.server.start()
    return site.halted("the log was cut off at") + site.answers() + site.audited()


def schema_breaks(site: Site) -> list[str]:
    """Everything is broken: `stop_if` stops it; with a rule that lets them pass, each becomes a dead letter once."""
    site.begin(1_500)
    site.produce(6_000, (events.BROKEN,))
    found = site.stopped("rejected")
    if site.server.runs():
        site.server.kill()
    pipeline = site.pipeline(site.server)
    pipeline.write_text(pipeline.read_text().replace("stop_if: 20% over 1m", "stop_if: 100% over 1m"))
    site.server.start()
    site.produce(300)
    return found + site.goes_on() + site.audited()
