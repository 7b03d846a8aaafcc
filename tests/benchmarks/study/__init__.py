"""The controlled study: what each geometric objective adds to a small student, with everything else held equal.

| file | what it holds |
|---|---|
| `settings.py` | arms, student, rooms, schedule: all that a run depends on |
| `shards.py` | rooms rendered once into arrays on disk, by all cores, and read as training rows |
| `student.py` | the student and its tokenizer, the same initial backbone in every arm |
| `training.py` | one arm: trained, stopped and resumed |
| `answers.py` | questions answered on the clip, on black frames and on the shuffled clip |
| `probes.py` | linear probes of depth, pose and object distance on frozen hidden states, layer by layer |
| `report.py`, `pictures.py` | tables with intervals, and figures, from the result files of all arms |
"""
