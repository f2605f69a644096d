"""Everything is broken for minutes: the pipeline stops by `stop_if`, SQL goes on, and after the fix nothing is missing.

Owns the course of it: a flood of broken events that does not end; restarts, by SIGTERM and by kill -9; a while in which an operator
lets the events pass as dead letters; the schema mended so that they are good; `alluvium replay`. Judged by the producer's ledger.
"""

import pathlib
import random
import time

from .. import audit
from ..delta import Log
from ..processes import wait_for
from ..talk import Talk
from . import numbered, totals
from .asker import Asker
from .outcome import Outcome, summed_up
from .site import VERIFYING, Site

MINUTES = 10.0
RATE = 2_000
BESIDE = 200  # events a second of the pipeline that must not feel it
PARTITIONS, KEYS, WINDOWS = 3, 47, 6
GOOD_FOR = 15.0  # seconds of good events before the flood
STOPS_WITHIN = 60.0
LETTERS = 20_000  # that are let pass before the fix
STRIKES = 8  # attempts to kill between two commits
DEAD = "data/dead_letters/poisoned"
PIPELINE = """version: 1
source:
  kafka: {{connection: main, topics: [{topic}], start: earliest}}
decode:
  json: {{schema: ../schemas/{schema}.yaml}}
event_time: {{column: ts, max_delay: 5s, idle_after: 10s}}
commit_every: 1s
tables:
  {table}:
    window: {{tumbling: 1m}}
    group_by: {{key: key}}
    measures:
      events: count(*)
      amount: sum(amount)
dead_letters:
  stop_if: {stop_if}
"""
STRICT, LENIENT = "20% over 1m", "100% over 1m"
NUMBERING = numbered.Numbering(KEYS, WINDOWS)
REQUIRED, MENDED = NUMBERING.schema("int"), NUMBERING.schema("bigint?")


def patience(asked) -> float:
    """Seconds within which it ends."""
    return 60 * asked.lasting(MINUTES) * 2 + 900 + VERIFYING


def run(asked, kafka, folder: pathlib.Path) -> Outcome:
    trial = Trial(asked, kafka, folder)
    trial.before()
    trial.flood()
    trial.mend()
    trial.compare()
    return trial.outcome


class Trial:
    def __init__(self, asked, kafka, folder: pathlib.Path):
        self.outcome = Outcome("poison")
        self.minutes = asked.lasting(MINUTES)
        self.rng = random.Random(f"poison {asked.seed}")
        for topic in ("poisoned", "beside"):
            kafka.create(topic, PARTITIONS)
        beside = PIPELINE.format(topic="beside", schema="steady", table="beside", stop_if=STRICT)
        texts = {"poisoned": self.pipeline(STRICT), "beside": beside}
        self.site = site = Site(folder, kafka, asked.binary, schema=REQUIRED, pipelines=texts)
        (folder / "schemas/steady.yaml").write_text(REQUIRED)
        self.log, self.log_beside = site.log("totals"), site.log("beside")
        self.letters = Log(site.storage, "dead_letters/poisoned")
        settings = {"brokers": kafka.brokers, "partitions": PARTITIONS, "keys": KEYS, "windows": WINDOWS, "places": True}
        self.flows = {
            name: Talk(
                "campaign.trials.flow",
                settings | {"topic": name, "rate": rate, "ledger": str(folder / f"{name}.json")},
                folder / f"flow-{name}.log",
            )
            for name, rate in (("poisoned", RATE), ("beside", BESIDE))
        }
        self.stops: list[float] = []  # seconds from a start, or from the flood's beginning, to the stop

    def pipeline(self, stop_if: str) -> str:
        return PIPELINE.format(topic="poisoned", schema="event", table="totals", stop_if=stop_if)

    def write(self, stop_if: str):
        (self.site.folder / "pipelines/poisoned.yaml").write_text(self.pipeline(stop_if))

    def found(self, what: str):
        self.outcome.findings.append(what)

    # Before ----------------------------------------------------------------------------------------------------------

    def before(self):
        """Good events until all of them are in the table; from then on only broken ones come."""
        flow = self.flows["poisoned"]
        self.site.server.start()
        wait_for("good events", 60, lambda: flow.said.get("events", 0) > GOOD_FOR * RATE, 0.1)
        flow.tell({"rate": 0})
        time.sleep(1.5)
        self.good = flow.said["events"]
        self.site.wait_until_read(self.log, self.good, 60)
        self.counted = NUMBERING.rows(self.good)
        self.asker = Asker(self.site, self.counted)
        time.sleep(3)
        flow.tell({"kind": "broken"})
        flow.tell({"rate": RATE})
        self.began = time.monotonic()

    # The flood ---------------------------------------------------------------------------------------------------------

    def flood(self):
        until = self.began + 60 * self.minutes
        self.stopped(self.began)
        self.says_so()
        passing = until - min(60.0, 20 * self.minutes)
        pause = max(5.0, (passing - time.monotonic()) / 8)
        restarts = [self.by_term, self.by_kill, self.by_kill_while_it_reads]
        number = 0
        while time.monotonic() + pause < passing:
            time.sleep(self.rng.uniform(0.5, 1.0) * pause)
            restarts[number % len(restarts)]()
            number += 1
        while time.monotonic() < passing:
            time.sleep(0.2)
        self.let_pass()
        while time.monotonic() < until:
            time.sleep(0.2)
        self.still_stopped()
        lag = sum(partition["lag"] or 0 for partition in self.site.pipeline("poisoned")["partitions"])
        self.flows["poisoned"].tell({"rate": 0})
        time.sleep(1.5)
        self.log.advance()
        self.recorded = {partition: offset for (_, partition), offset in self.log.reached().items()}
        sent = self.flows["poisoned"].said["events"]
        refused = audit.sums(self.log)["rejected"]
        behind = sent - sum(self.recorded.values())
        self.outcome.figures |= {"minutes": self.minutes, "good": self.good, "broken": sent - self.good, "restarts": number + 2}
        self.outcome.figures |= {"refused before the fix": refused, "not read before the fix": behind, "lag that status tells": lag}
        self.outcome.figures["seconds to the stop"] = summed_up(self.stops)
        self.outcome.say(
            f"{self.minutes:.1f} minutes, {sent - self.good:,} broken events after {self.good:,} good ones: {len(self.stops)} stops, "
            f"each within {max(self.stops):.1f} s; {refused:,} became letters, {behind:,} were not read; `status` told a lag of {lag:,}"
        )

    def stopped(self, since: float):
        """Waits for the stop; says how long it took from `since` on."""

        def said():
            one = self.site.pipeline("poisoned")
            return one.get("state") == "stopped" and one

        try:
            one = wait_for("the stop", STOPS_WITHIN, said, 0.1)
        except TimeoutError:
            self.found(f"it did not stop within {STOPS_WITHIN:.0f} s; it says {self.site.pipeline('poisoned')}")
            return
        self.stops.append(round(time.monotonic() - since, 2))
        for words in ("stop_if", "were rejected", "dead_letters.poisoned"):
            if words not in (one["reason"] or ""):
                self.found(f"the reason does not say {words!r}: {one['reason']!r}")

    def says_so(self):
        """What an operator and an orchestrator see of a server whose pipeline has stopped."""
        said = self.site.status_command()
        if said.returncode != 0 or "stopped" not in said.stdout or "stop_if" not in said.stdout:
            self.found(f"`alluvium status` ends with {said.returncode} and says {said.stdout[:500]!r}")
        alive, _ = self.site.get("/livez")
        ready, reply = self.site.get("/readyz?verbose")
        states = {one["pipeline"]: one["state"] for one in reply.get("pipelines", ())}
        if alive != 200 or ready != 503 or states != {"poisoned": "stopped", "beside": "running"}:
            self.found(f"/livez says {alive}, /readyz {ready} {reply}")
        self.outcome.figures["readyz"], self.outcome.figures["livez"] = ready, alive
        self.outcome.figures["status"] = next((line for line in said.stdout.splitlines() if line.startswith("poisoned")), None)

    def still_stopped(self):
        if self.site.pipeline("poisoned").get("state") != "stopped":
            self.found(f"at the end of the flood it is not stopped: {self.site.pipeline('poisoned')}")
        if self.site.pipeline("beside").get("state") != "running":
            self.found(f"at the end of the flood the pipeline beside does not run: {self.site.pipeline('beside')}")

    # Restarts ------------------------------------------------------------------------------------------------------------

    def start(self) -> float:
        began = time.monotonic()
        self.site.server.start()
        wait_for("the door", 30, self.site.server.door, 0.02)
        return began

    def by_term(self):
        """A server of which a pipeline has failed ends with 1."""
        with self.asker.process_away():
            code = self.site.server.drained(45)
            began = self.start()
        if code != 1:
            self.found(f"a server with a stopped pipeline ended with {code} after SIGTERM, not with 1")
        self.stopped(began)

    def by_kill(self):
        with self.asker.process_away():
            self.site.server.kill()
            began = self.start()
        self.stopped(began)

    def by_kill_while_it_reads(self):
        """Once more before it has stopped again."""
        with self.asker.process_away():
            self.site.server.kill()
            self.start()
            time.sleep(self.rng.uniform(0.02, 0.4))
            self.site.server.kill()
            began = self.start()
        self.stopped(began)

    def let_pass(self):
        """Somebody raises `stop_if`: broken events become letters. It ends with kill -9 between a commit of letters and that of the
        table, if one strikes there: the fix will then take events that are letters already. From then on the rule is as before."""
        before = audit.sums(self.log)["rejected"]
        with self.asker.process_away():
            self.site.server.kill()
            self.write(LENIENT)
            self.start()

        def passed():
            self.log.advance()
            return audit.sums(self.log)["rejected"] >= before + LETTERS

        wait_for("letters", 60, passed, 0.05)
        for attempt in range(STRIKES):
            self.letters.advance()
            seen = self.letters.next
            wait_for("more letters", 30, lambda seen=seen: self.letters.advance() or self.letters.next > seen, 0.001)
            with self.asker.process_away():
                self.site.server.kill()
                self.log.advance()
                over = self.uncommitted_letters() > 0 or attempt == STRIKES - 1
                if over:
                    self.write(STRICT)
                began = self.start()
            if over:
                break
        self.stopped(began)

    def uncommitted_letters(self) -> int:
        """Letters of events that the table's commits have not come to."""
        held = audit.connect().execute(f"select count(*) from delta_scan('{self.site.folder / DEAD}')").fetchone()[0]
        return held - audit.sums(self.log)["rejected"]

    # After ---------------------------------------------------------------------------------------------------------------

    def mend(self):
        """The schema takes what was broken: what was not read is counted, and the letters are replayed. Good events come again."""
        site, flow = self.site, self.flows["poisoned"]
        sent = flow.said["events"]
        self.asker.may_rise_to(NUMBERING.rows(sent + 30 * RATE))  # what comes next is not known yet; the end is exact
        with self.asker.process_away():
            site.server.drained(45)
            site.write_schema(MENDED)
            began = self.start()
        flow.tell({"kind": "good"})
        flow.tell({"rate": RATE})
        # Letters of events that no table has read yet wait for that; these are replayed once it has.
        site.wait_until_read(self.log, sent, 180)
        asked = time.monotonic()
        replay = site.commanded("replay", "poisoned", "--format", "json", patience=900)
        took = time.monotonic() - asked
        self.outcome.figures |= {"replay": replay.stdout.strip(), "replay seconds": round(took, 1)}
        if replay.returncode != 0:
            self.found(f"`alluvium replay` ended with {replay.returncode}: {replay.stdout[-500:]} {replay.stderr[-1500:]}")
        self.ledgers = {name: flow.finish() for name, flow in self.flows.items()}
        refused = audit.sums(self.log)["rejected"]
        site.wait_until_read(self.log, self.ledgers["poisoned"]["events"], 180)
        site.wait_until_read(self.log_beside, self.ledgers["beside"]["events"], 60)
        if audit.sums(self.log)["rejected"] != refused:
            self.found("events are refused after the fix")
        wait_for("the end of the replay to be seen", 30, self.settled, 0.2)
        if self.site.get("/readyz")[0] != 200:
            self.found(f"after the fix it is not ready: {self.site.get('/readyz?verbose')}")
        self.outcome.say(f"mended: all counted {time.monotonic() - began:.0f} s after the start")
        self.outcome.say(f"`replay` took {took:.1f} s: {replay.stdout.strip()}")
        again = site.commanded("replay", "poisoned", "--format", "json")
        if again.returncode != 0:
            self.found(f"a second replay ended with {again.returncode}: {again.stderr[-500:]}")
        self.outcome.findings += self.asker.end()
        self.outcome.figures |= {
            "asked and answered": self.asker.answered,
            "asked while the process was away": self.asker.while_away,
            "slowest answer": round(self.asker.slowest, 3),
            "longest pause beside": round(self.asker.longest_pause, 1),
        }
        self.outcome.say(
            f"asked every second: {self.asker.answered} answers, slowest {self.asker.slowest:.2f} s, "
            f"{self.asker.while_away} more came while the process was away; "
            f"the pipeline beside paused for {self.asker.longest_pause:.1f} s at most"
        )

    def settled(self) -> bool:
        """Whether SQL says as many events as were sent; what they are is DuckDB's to say."""
        return int(self.site.rows("select sum(events) as n from totals")[0]["n"]) == self.ledgers["poisoned"]["events"]

    def compare(self):
        """With a pipeline that never failed: every total, and every letter."""
        site, db = self.site, audit.connect()
        verdict, found = site.verified("beside")
        self.outcome.figures["verify beside"] = verdict
        self.outcome.findings += site.ended() + site.proven() + found
        self.outcome.findings += [f"the ledger has a doubt: {doubt}" for ledger in self.ledgers.values() for doubt in ledger["doubts"]]
        for log, name, topic in ((self.log, "totals", "poisoned"), (self.log_beside, "beside", "beside")):
            log.advance()
            events = self.ledgers[topic]["events"]
            held = totals.compare(db, NUMBERING.truth(events), totals.of_table(site.folder / f"data/tables/{name}"))
            self.outcome.findings += held.findings(name) + audit.chain(log)
            self.outcome.figures[name] = {"events": held.events, "rows": held.rows, "lost": held.lost, "twice": held.twice}
            self.outcome.figures[name]["wrong sums"] = held.wrong_sums
            lost = f"lost {held.lost}, twice {held.twice}, {held.wrong_sums} wrong sums"
            self.outcome.say(f"{name}: {held.events:,} events of {events:,}, {lost}")
        held = f'select partition, "offset", payload from delta_scan(\'{site.folder / DEAD}\')'
        figures, found = totals.letters(db, held, self.sent_broken(), self.recorded)
        refused = audit.sums(self.log)["rejected"]
        if refused != figures["refused"]:
            found.append(f"the commits say that {refused} events were refused, by the offsets there are {figures['refused']}")
        self.outcome.figures["letters"] = figures
        self.outcome.findings += found
        beyond = figures["letters"] - figures["refused"]
        sorts = f"the {figures['refused']:,} refused events, and {beyond:,} whose commit a kill prevented"
        self.outcome.say(f"{figures['letters']:,} letters: {sorts}")

    def sent_broken(self) -> str:
        start = f"""'{{"ts":"2026-03-01T12:' || lpad((number % {WINDOWS})::varchar, 2, '0') || ':30Z","key":' ||
            (number * {numbered.STRIDE} % {KEYS}) || ',"amount":' || (number % {numbered.AMOUNTS} - {numbered.AMOUNTS // 2})"""
        end = f"""case when number % 2 = 1 then '}}' else ',"device":{numbered.TOO_LARGE}}}' end"""
        places = self.ledgers["poisoned"]["places"]
        return f"""select partition, "offset", encode({start} || {end}) as payload from read_csv('{places}', header = true,
            columns = {{'number': 'bigint', 'partition': 'integer', 'offset': 'bigint'}})"""
