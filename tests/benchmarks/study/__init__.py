"""The controlled study: what each geometric objective adds to a small student, with everything else held equal.

| file | what it holds |
|---|---|
| `settings.py` | arms, student, rooms, schedule: all that a run depends on |
| `rendering.py`, `rooms.py` | rooms rendered once into arrays on disk, and read as training rows |
| `flat_questions.py`, `grounding.py` | the warm-up's lessons: pictures as such, and what each visual token shows |
| `student.py` | the student and its tokenizer |
| `training.py`, `clock.py` | the warm-up, and an arm: trained, stopped and gone on with |
| `answers.py` | questions answered on the clip, on black frames and on the shuffled clip; geometry predicted |
| `probes.py` | linear probes of depth, pose and object distance on frozen hidden states, layer by layer |
| `cost.py` | seconds and memory of a step of each arm |
| `stages.py` | an arm from training to its result file |
| `report.py`, `pictures.py` | tables with intervals, and figures, from the result files of all arms |
"""
