"""docs/safety.md lists the safety events as they are."""

from pathlib import Path

from dex_rl_nodes.robot.events import Reaction, SafetyEvent

DOCUMENT = Path(__file__).parents[2] / 'docs' / 'safety.md'
WORDS = {
    Reaction.WARN: 'counted',
    Reaction.LIMIT: 'limited',
    Reaction.REFUSE: 'ignored',
    Reaction.HOLD: 'held',
    Reaction.STOP: 'latched stop',
}


def test_every_event_is_documented_as_it_is():
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith('| ') and line[2].isdigit()]
    assert rows == [
        f'| {event.number} | `{event.name.lower()}` | {WORDS[event.reaction]} | {event.explanation} | {event.advice} |'
        for event in SafetyEvent
    ]
