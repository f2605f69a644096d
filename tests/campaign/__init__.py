"""A campaign of faults against the real binary, with a real Kafka and real storage, and an auditor that decides.

`python -m campaign --minutes 60 --seed 7` from `tests/`, or `tests/campaign/run.sh`. README.md says what is drawn, what
counts and which floors hold.
"""
