"""Findings of the preflight, sorted for tests."""

FILE = 'config/robots/fr3_ruiyan.yaml'


def levels(findings):
    """Findings by level; every one that is not good says what to do, and all of it on one line."""
    sorted_ = {'good': [], 'warning': [], 'bad': []}
    for finding in findings:
        assert '\n' not in finding.text + finding.fix and finding.text, finding
        assert finding.fix or finding.level == 'good', finding
        sorted_[finding.level].append(f'{finding.subject}: {finding.text} -> {finding.fix}')
    return sorted_


def bad(findings):
    """The only bad finding."""
    found = levels(findings)['bad']
    assert len(found) == 1, found
    return found[0]
