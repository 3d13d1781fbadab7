"""Episodes out of bags: frames, states and actions of one tick belong together, whatever the order in the bag."""

import random
from functools import partial

import numpy as np
import pytest
from transition_parts import episode_parts

from dex_rl_nodes.descriptions import FRONT_IMAGE, WRIST_IMAGE
from dex_rl_nodes.learning.vision import crop_view
from dex_rl_nodes.recording.episodes import read_episodes
from dex_rl_nodes.recording.reader import mcap_files
from dex_rl_nodes.recording.writer import BagWriter
from dex_rl_nodes.records import (
    CoreAction,
    EpisodeState,
    ExecutedAction,
    Mark,
    Outcome,
    PolicyStep,
    StepResult,
    TeleopCommand,
)

CROPS = {'front': [0.0, 0.0, 1.0, 1.0], 'wrist': [0.0, 0.25, 1.0, 1.0]}
TOPICS = {'front': FRONT_IMAGE, 'wrist': WRIST_IMAGE}
NAMES = {
    PolicyStep: 'policy_step', CoreAction: 'core_action', ExecutedAction: 'executed_action', StepResult: 'step_result',
    EpisodeState: 'episode', TeleopCommand: 'teleop_command',
}  # fmt: skip
MS = 1_000_000


def picture(episode, step, view):
    value = 100 * episode + 5 * step + (view == 'wrist')
    return np.random.default_rng(value).integers(0, 255, (32, 40, 3), np.uint8)


def entries(episode, ticks, outcome, wrist_delay=0, mark_at=None):
    """What is written about an episode, in the order of its stamps: callables that take a bag."""
    written = []
    for part in episode_parts(episode, ticks, outcome):
        if isinstance(part, PolicyStep):
            for view in TOPICS:
                stamp = part.stamp + (wrist_delay if view == 'wrist' else 0)
                write = partial(BagWriter.write_image, topic=f'/robot/{TOPICS[view]}', stamp=stamp)
                written.append((stamp, partial(write, pixels=picture(episode, part.step, view))))
            if part.step == mark_at:
                command = TeleopCommand(part.stamp - 20 * MS, mark=Mark.SUCCESS)
                written.append((command.stamp, partial(BagWriter.write, topic='/robot/teleop_command', record=command)))
        name = f'/robot/{NAMES[type(part)]}'
        written.append((part.stamp, partial(BagWriter.write, topic=name, record=part)))
    return written


def record(folder, written, jitter=0.0):
    shuffler = random.Random(0)
    with BagWriter(folder) as bag:
        for _, write in sorted(written, key=lambda entry: entry[0] + shuffler.uniform(0, jitter)):
            write(bag)
    return folder


def check(episode, number, ticks, outcome):
    assert (episode.episode, episode.seed, episode.outcome, len(episode)) == (number, number, outcome, ticks)
    parts = list(episode_parts(number, ticks, outcome))
    steps = [part for part in parts if isinstance(part, PolicyStep)]
    actions = [part for part in parts if isinstance(part, ExecutedAction)]
    assert np.array_equal(episode.state, [step.state for step in steps])
    assert np.array_equal(episode.hand_history, [step.hand_history for step in steps])
    assert np.array_equal(episode.action, [action.action for action in actions])
    assert episode.source.tolist() == [action.source for action in actions]
    assert np.allclose(episode.hand_targets[1:], [action.hand_target for action in actions], atol=1e-6)
    for view, images in episode.images.items():
        assert images.dtype == np.uint8 and images.shape == (ticks + 1, 16, 16, 3)
        for step in range(ticks + 1):
            assert np.array_equal(images[step], crop_view(picture(number, step, view), CROPS[view], 16))


@pytest.mark.parametrize('jitter', [0, 60 * MS])
@pytest.mark.parametrize('wrist_delay', [0, 30 * MS, -30 * MS])
def test_round_trip(tmp_path, jitter, wrist_delay):
    kinds = [(0, 5, Outcome.SUCCESS), (1, 9, Outcome.TIMEOUT), (2, 4, Outcome.DISCARDED), (3, 1, Outcome.FAILURE)]
    written = [entry for number, ticks, outcome in kinds for entry in entries(number, ticks, outcome, wrist_delay)]
    folder = record(tmp_path / 'bag', written, jitter)
    warnings = []
    episodes = read_episodes(folder, CROPS, size=16, warn=warnings.append)
    assert not warnings and [episode.episode for episode in episodes] == [0, 1, 3]
    for episode, kind in zip(episodes, (kinds[0], kinds[1], kinds[3])):
        check(episode, *kind)
    assert episodes[0].success.tolist() == [False] * 5 + [True] and episodes[0].success_step == 5
    assert episodes[1].success_step is None
    only = read_episodes([folder], CROPS, size=16, outcomes=[Outcome.DISCARDED])
    assert [episode.episode for episode in only] == [2]


def test_frames_after_the_mark_show_success(tmp_path):
    marked = entries(0, 8, Outcome.SUCCESS, mark_at=5)
    in_vain = entries(1, 4, Outcome.TIMEOUT, mark_at=2)
    episodes = read_episodes(record(tmp_path / 'bag', marked + in_vain), CROPS, size=16)
    assert episodes[0].success.tolist() == [False] * 5 + [True] * 4 and episodes[0].success_step == 5
    assert not episodes[1].success.any()


def test_what_cannot_be_used_is_said(tmp_path):
    def without(written, topic, n):
        """Leave out the n-th message of a topic."""
        found = [entry for entry in written if entry[1].keywords['topic'].endswith(topic)]
        return [entry for entry in written if entry is not found[n]]

    written = [
        *without(entries(0, 6, Outcome.SUCCESS), 'executed_action', 2),
        *without(entries(1, 6, Outcome.SUCCESS), 'policy_step', 6),
        *entries(2, 6, Outcome.SUCCESS)[:-1],
        *[e for e in entries(3, 6, Outcome.SUCCESS) if WRIST_IMAGE not in e[1].keywords['topic']],
        *entries(4, 6, Outcome.SUCCESS),
    ]
    warnings = []
    episodes = read_episodes(record(tmp_path / 'bag', written), CROPS, size=16, warn=warnings.append)
    assert [episode.episode for episode in episodes] == [4]
    assert [warning.partition(': ')[2] for warning in warnings] == [
        'episode 0 was left out: executed action 2 of 6 is missing',
        'episode 1 was left out: observation 6 of 7 is missing',
        'episode 2 has no end and was left out',
        'episode 3 was left out: the wrist camera has no image at tick 0',
    ]


def test_a_lost_frame_is_replaced_by_its_neighbour(tmp_path):
    written = list(entries(0, 6, Outcome.SUCCESS))
    wrist = [entry for entry in written if WRIST_IMAGE in entry[1].keywords['topic']]
    episode = read_episodes(record(tmp_path / 'bag', [e for e in written if e is not wrist[3]]), CROPS, size=16)[0]
    neighbours = [crop_view(picture(0, step, 'wrist'), CROPS['wrist'], 16) for step in (2, 4)]
    assert any(np.array_equal(episode.images['wrist'][3], image) for image in neighbours)


def test_a_number_used_twice_gives_the_whole_one(tmp_path):
    """A killed session leaves episode 0 open; were its number used again, the second one counts."""
    broken = entries(0, 6, Outcome.SUCCESS)[:8]
    later = [(stamp + 10**13, write) for stamp, write in entries(0, 4, Outcome.SUCCESS)]
    for _, write in later:
        content = write.keywords.get('record')
        if content is not None:
            content.stamp += 10**13
        else:
            write.keywords['stamp'] += 10**13
    warnings = []
    episodes = read_episodes(record(tmp_path / 'bag', broken + later), CROPS, size=16, warn=warnings.append)
    assert [len(episode) for episode in episodes] == [4]
    assert warnings == [f'bag {tmp_path / "bag"}: episode 0 has no end and was left out']


def test_a_bag_cut_off_gives_its_whole_episodes(tmp_path):
    folder = tmp_path / 'bag'
    with BagWriter(folder) as bag:
        for number in range(3):
            for _, write in sorted(entries(number, 6, Outcome.SUCCESS), key=lambda entry: entry[0]):
                write(bag)
            bag.flush()
            if number == 1:
                keep = bag.position[1]
    path = mcap_files(folder)[0]
    path.write_bytes(path.read_bytes()[: keep + 500])
    warnings = []
    episodes = read_episodes(folder, CROPS, size=16, warn=warnings.append)
    assert [episode.episode for episode in episodes] == [0, 1]
    assert len(warnings) == 1 and 'is cut off' in warnings[0] and '500 bytes' in warnings[0]
