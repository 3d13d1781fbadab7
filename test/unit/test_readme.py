"""The tables of the README say what the declarations say, row by row, both ways."""

import re
from pathlib import Path

import pytest

from dex_rl_nodes.descriptions import NODES, SERVICES, TOPICS
from dex_rl_nodes.parameters import COMMON, Parameter

README = Path(__file__).parents[2] / 'README.md'


def names(items):
    return ', '.join(f'`{item}`' for item in items)


def nodes():
    yield '| node | does | services |', '|---|---|---|'
    for node in NODES.values():
        yield (f'| `{node.name}` | {node.purpose} | {names(node.serves)} |',)


def topics():
    yield '| topic | type | QoS | from | to |', '|---|---|---|---|---|'
    for topic, kind in TOPICS.items():
        senders = names(node.name for node in NODES.values() if topic in node.publishes)
        receivers = names(node.name for node in NODES.values() if topic in node.subscribes)
        if topic == '/diagnostics':
            senders = 'all'
        yield (f'| `{topic}` | {kind.type.replace("/msg/", "/")} | {kind.qos} | {senders} | {receivers} |',)


def services():
    yield '| service | type | of |', '|---|---|---|'
    for service, kind in SERVICES.items():
        servers = names(node.name for node in NODES.values() if service in node.serves)
        yield (f'| `{service}` | {kind.replace("/srv/", "/")} | {servers} |',)


def bounds(parameter: Parameter) -> str:
    if parameter.choices:
        return ', '.join(parameter.choices)
    if parameter.minimum is not None and parameter.maximum is not None:
        return f'{parameter.minimum:g} to {parameter.maximum:g}'
    return ''


def parameters():
    yield '| node | parameter | default | unit | values | meaning |', '|---|---|---|---|---|---|'
    owned = [('(all)', COMMON), *((f'`{node.name}`', node.parameters) for node in NODES.values())]
    for owner, declared in owned:
        for p in declared:
            default = str(p.default).lower() if isinstance(p.default, bool) else p.default
            default = f'`{default}`' if default != '' else ''
            yield (f'| {owner} | `{p.name}` | {default} | {p.unit} | {bounds(p)} | {p.description} |',)


TABLES = {'nodes': nodes, 'topics': topics, 'services': services, 'parameters': parameters}


def expected(table) -> list[str]:
    return [line for lines in table() for line in lines]


def written(name: str) -> list[str]:
    after = README.read_text().split(f'<!-- table: {name} -->\n', 1)[1]
    return after.split('<!-- end -->', 1)[0].splitlines()


@pytest.mark.parametrize('name', TABLES)
def test_table_of_the_readme(name):
    assert written(name) == expected(TABLES[name]), 'run: PYTHONPATH=. python test/unit/test_readme.py'


def test_every_topic_and_service_has_a_node():
    for node in NODES.values():
        assert set(node.publishes) | set(node.subscribes) <= set(TOPICS)
        assert set(node.serves) | set(node.calls) <= set(SERVICES)
    for topic in set(TOPICS) - {'/diagnostics'}:
        assert any(topic in node.publishes for node in NODES.values()), topic
    for service in SERVICES:
        assert any(service in node.serves for node in NODES.values()), service


def test_what_is_not_recorded_is_named():
    (sentence,) = (line for line in README.read_text().splitlines() if line.startswith('Bags of a graph hold'))
    told = set(re.findall(r'`([^`]+)`', sentence.partition('Not recorded are ')[2]))
    assert told == set(TOPICS) - set(NODES['replay_recorder'].subscribes) - {'transitions'}


def test_every_document_is_linked():
    text = README.read_text()
    for path in sorted((README.parent / 'docs').glob('*.md')):
        assert f'(docs/{path.name})' in text, path.name


if __name__ == '__main__':
    text = README.read_text()
    for name, table in TABLES.items():
        head, rest = text.split(f'<!-- table: {name} -->\n', 1)
        tail = rest[rest.index('<!-- end -->') :]
        text = head + f'<!-- table: {name} -->\n' + '\n'.join(expected(table)) + '\n' + tail
    README.write_text(text)
