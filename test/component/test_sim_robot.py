"""sim_robot and scripted_operator with the real simulation."""

from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip('rclpy')
pytest.importorskip('mujoco')

from harness import bench, ros  # noqa: F401

from dex_rl_nodes.descriptions import CURRENT_POSE, GLOVE, HAND_COMMAND, HAND_JOINTS, IMAGES, INFOS, JOY, TWIST
from dex_rl_nodes.errors import UserError
from dex_rl_nodes.nodes import conversions as c
from dex_rl_nodes.nodes.scripted_operator import ScriptedOperatorNode
from dex_rl_nodes.nodes.sim_robot import SimRobotNode
from dex_rl_nodes.records import ARM_JOINTS, EpisodeState, Phase, SimState
from dex_rl_nodes.records import HAND_JOINTS as JOINTS
from dex_rl_nodes.robot.teleop import ScriptedHands
from dex_rl_nodes.sim.operator import ScriptedOperator
from dex_rl_nodes.sim.robot import SimRobot

SEED = 1_000_003


def _start(table, episode=0, seed=SEED):
    """Reset the scene and announce the episode; the answer of reset_scene."""
    answer = table.call('reset_scene', episode=episode, seed=seed, purpose='demos')
    assert answer.success
    table.run_episode(episode, stamp=c.stamp_ns(answer.start), seed=seed)
    return answer


def test_it_says_what_it_looks_like_and_how_its_joints_stand(bench):
    table = bench(SimRobotNode)
    arm, hand = table.listen('robot_description'), table.listen('hand_description')
    joints = table.listen('joint_states')
    _start(table)
    table.until(lambda: arm and hand and joints, 'descriptions, also for who comes late, and joints')
    described = [
        joint.get('name')
        for text in (arm[0].data, hand[0].data)
        for joint in ElementTree.fromstring(text).iter('joint')
        if joint.get('type') == 'revolute'
    ]
    assert sorted(described) == sorted(joints[0].name)


def test_lockstep_is_the_simulation_itself(bench):
    table = bench(SimRobotNode)
    heard = {
        t: table.listen(t)
        for t in (CURRENT_POSE, HAND_JOINTS, 'sim_state', '/clock', *IMAGES.values(), *INFOS.values())
    }
    answer = _start(table)
    reference = SimRobot(table.node.task, table.node.robot)
    reading = reference.reset(SEED)
    assert np.array_equal(c.pose_array(answer.start_pose), reading.tcp_pose)
    assert np.array_equal(answer.hand_target, reference.start_hand)
    for n in range(5):
        table.until(lambda: all(len(messages) == n + 1 for messages in heard.values()), f'tick {n}')
        pose, hand, state = (heard[t][n] for t in (CURRENT_POSE, HAND_JOINTS, 'sim_state'))
        stamp = c.stamp_ns(pose.header.stamp)
        assert np.array_equal(c.pose_array(pose.pose), reading.tcp_pose)
        assert np.array_equal(np.float32(c.joint_positions(hand, JOINTS)), reading.hand)
        assert dict(zip(state.names, state.values)) == reference.scene()
        for view, topic in IMAGES.items():
            image = heard[topic][n]
            assert np.array_equal(c.image_array(image), reference.render(view))
            assert image.header.frame_id == f'{view}_color_optical_frame'
            assert c.stamp_ns(image.header.stamp) == stamp == state.stamp
        target = reading.tcp_pose + np.array([0.01 * n, 0, -0.01 * n, 0, 0, 0, 0])
        fingers = reference.start_hand + np.float32(0.05 * n)
        table.send('target_pose', c.pose_stamped(target, stamp - 1, 'base'))  # not of this tick: ignored
        table.send('target_pose', c.pose_stamped(target, stamp, 'base'))
        table.send(HAND_COMMAND, c.joint_state(JOINTS, fingers, stamp))
        reference.step(c.pose_array(c.pose_message(target)), fingers.astype(float))
        reading = reference.read()
    reference.close()


def test_lockstep_stops_with_the_episode_and_starts_again(bench):
    table = bench(SimRobotNode)
    states = table.listen('sim_state')
    _start(table, 0)
    table.until(lambda: len(states) == 1, 'tick 0')
    table.send('episode', EpisodeState(0, 0, Phase.ENDED))
    table.until(lambda: not table.node._tick, 'the end')
    _start(table, 1)
    table.until(lambda: len(states) == 2, 'tick 0 of episode 1')
    assert states[1].stamp > states[0].stamp and states[1].episode == 1


def test_lockstep_names_the_command_that_does_not_come(bench):
    table = bench(SimRobotNode, command_deadline=1.0)
    poses = table.listen(CURRENT_POSE)
    _start(table)
    table.until(lambda: poses, 'tick 0')
    stamp = c.stamp_ns(poses[0].header.stamp)
    table.send('target_pose', c.pose_stamped(c.pose_array(poses[0].pose), stamp, 'base'))
    with pytest.raises(UserError, match='hand/command of the tick at .* in vain; is command_mux running?'):
        table.until(lambda: False, 'the error')


@pytest.mark.realtime
def test_real_time_publishes_at_the_rates_of_the_drivers(bench):
    table = bench(SimRobotNode, lockstep=False)
    infos, images = table.listen(INFOS['front']), table.listen(IMAGES['front'])
    joints = table.listen('joint_states')
    poses = table.listen(CURRENT_POSE)
    table.until(lambda: len(images) >= 12, 'twelve frames')
    stamps = np.array([c.stamp_ns(image.header.stamp) for image in images]) * 1e-9
    assert np.median(np.diff(stamps)) == pytest.approx(0.1, abs=0.03)
    stamps = np.array([c.stamp_ns(pose.header.stamp) for pose in poses]) * 1e-9
    assert np.median(np.diff(stamps)) == pytest.approx(0.02, abs=0.01)
    assert list(joints[0].name[:7]) == list(ARM_JOINTS)
    fx, fy, cx, cy = table.node._core.intrinsics('front')
    assert infos[0].k.tolist() == [fx, 0, cx, 0, fy, cy, 0, 0, 1]
    assert (infos[0].width, infos[0].height) == (images[0].width, images[0].height)


def test_real_time_moves_where_it_is_told(bench):
    table = bench(SimRobotNode, lockstep=False)
    poses = table.listen(CURRENT_POSE)
    answer = _start(table)
    start = c.pose_array(answer.start_pose)
    goal = start + np.array([0.03, 0.0, 0.02, 0, 0, 0, 0])
    stamp = table.node.get_clock().now().nanoseconds
    late, away = c.stamp_ns(answer.start) - 1, start + np.array([-0.1, 0, 0, 0, 0, 0, 0])
    for pose, sent in ((goal, stamp), (away, late)):  # what held the episode before comes late
        table.send('target_pose', c.pose_stamped(pose, sent, 'base'))
        table.send(HAND_COMMAND, c.joint_state(JOINTS, answer.hand_target, sent))
        table.until(lambda: len(table.node._targets) == 2, 'the commands')
    table.until(
        lambda: poses and np.linalg.norm(c.pose_array(poses[-1].pose)[:3] - goal[:3]) < 0.008, 'the arm at its target'
    )


def test_operator_acts_once_per_tick_like_in_one_process(bench):
    table = bench(ScriptedOperatorNode, mode='demonstrate')
    twists, joys, gloves = table.listen(TWIST), table.listen(JOY), table.listen(GLOVE)
    task, robot = table.node.task, table.node.robot
    simulation, reference = SimRobot(task, robot), ScriptedOperator(task, robot)
    reading = simulation.reset(SEED)
    reference.reset(SEED)
    table.run_episode(stamp=reading.stamp, seed=SEED, purpose='demos')
    for n in range(20):
        scene = simulation.scene()
        state = SimState(reading.stamp, 0, list(scene), np.array(list(scene.values()), float))
        table.send('sim_state', state)
        table.send(HAND_JOINTS, c.joint_state(JOINTS, reading.hand, reading.stamp))
        table.send(CURRENT_POSE, c.pose_stamped(reading.tcp_pose, reading.stamp, 'base'))
        table.until(lambda: len(twists) == len(joys) == len(gloves) == n + 1, f'devices of tick {n}')
        expected = reference.act(scene, reading)
        linear, angular = twists[n].twist.linear, twists[n].twist.angular
        assert (
            np.float32([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]).tolist()
            == expected.twist.tolist()
        )
        assert list(joys[n].buttons) == ScriptedHands().buttons(expected)
        assert np.array_equal(np.float32(c.joint_positions(gloves[n], JOINTS)), expected.glove)
        assert c.stamp_ns(twists[n].header.stamp) == reading.stamp
        simulation.step(reading.tcp_pose + np.array([0.005, 0, -0.005, 0, 0, 0, 0]), simulation.start_hand)
        reading = simulation.read()


def test_examples_for_the_classifier_are_successes_and_near_misses_in_turn(bench):
    table = bench(ScriptedOperatorNode, mode='examples')
    task, robot = table.node.task, table.node.robot
    for episode, skill in enumerate(('survey', 'negative', 'survey')):
        reference = ScriptedOperator(task, robot, skill)
        reference.reset(SEED + episode)
        table.run_episode(episode, stamp=1 + episode, seed=SEED + episode, purpose='reward')
        core, pace = table.node._core, reference._style.closing  # drawn from the seed of the episode
        table.until(lambda core=core, pace=pace: core._style.closing == pace, f'episode {episode}')
        assert core.skill == skill
        assert [stage.name for stage in core._plan] == [stage.name for stage in reference._plan]


def test_an_operator_who_is_not_there_keeps_hands_off(bench):
    table = bench(ScriptedOperatorNode, mode='intervene', presence=0.0)
    twists, joys = table.listen(TWIST), table.listen(JOY)
    table.run_episode(stamp=5, seed=SEED)
    table.send('sim_state', SimState(5, 0, ['success'], np.zeros(1)))
    table.send(HAND_JOINTS, c.joint_state(JOINTS, np.zeros(6), 5))
    table.send(CURRENT_POSE, c.pose_stamped([0.4, 0, 0.3, 1, 0, 0, 0], 5, 'base'))
    table.until(lambda: twists and joys, 'the devices')
    assert not any(joys[0].buttons) and not any(joys[0].axes)
