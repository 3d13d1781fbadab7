"""What a check found, for a person: how bad it is, about what, in words, and what to do."""

from dataclasses import dataclass
from typing import Literal

from dex_rl_nodes.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One line of a report."""

    level: Literal['good', 'warning', 'bad']
    subject: str
    text: str
    fix: str = ''


def refusal(subject: str, error: UserError) -> Finding:
    """What a UserError says: what is wrong, and behind the first semicolon what to do."""
    text, _, fix = str(error).partition('; ')
    return Finding('bad', subject, text, fix)
