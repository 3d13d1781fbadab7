"""Parameter files: what cannot be is refused before anything starts."""

import pytest

from dex_rl_nodes.errors import UserError
from dex_rl_nodes.graph import APPLICATIONS, check_parameter_file
from dex_rl_nodes.launch_command import run

pytestmark = pytest.mark.usefixtures('robots_with_serials')


def test_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(UserError, match='none.yaml does not exist'):
        run(['robot.launch.py', f'parameter_file:={tmp_path / "none.yaml"}'])


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('a: [', 'is not valid YAML'),
        ('', 'has no parameters; write NODE: {ros__parameters'),
        ('just words', 'has no parameters'),
        ('policy: {threads: 2}', '/policy/threads has no parameters'),
        ('policy: {ros__parameters: 2}', '/policy/ros__parameters has no parameters'),
        ('polcy: {ros__parameters: {threads: 2}}', 'there is no node /polcy; there are: /sim_robot, '),
        ('/left/policy: {ros__parameters: {threads: 2}}', 'there is no node /left/policy'),
        ('policy: {ros__parameters: {thread: 2}}', '/policy has no parameter "thread"; it has: '),
        ('"/**": {ros__parameters: {thread: 2}}', r'/\*\* has no parameter "thread"; the README lists'),
        ('policy: {ros__parameters: {threads: two}}', '/policy: threads must be a whole number, not "two"'),
        ('/**/policy: {ros__parameters: {threads: 99}}', 'threads must be at most 64, not 99'),
        ('teleop: {ros__parameters: {rate: 20}}', r'rate must be written 20\.0, not 20'),
        ('policy: {ros__parameters: {run: other}}', '/policy: run is the same in all nodes; .* run:=other'),
        ('/**: {ros__parameters: {start_deadline: 0.5}}', 'start_deadline must be at least 1 s'),
    ],
)
def test_a_parameter_file_in_which_something_cannot_be_is_refused(tmp_path, text, words):
    path = tmp_path / 'p.yaml'
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        check_parameter_file(APPLICATIONS['online_rl'].values({'parameter_file': str(path)}))
    assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_a_parameter_file_may_name_nodes_as_ros_does(tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text(
        '/**: {ros__parameters: {threads: 2, use_sim_time: true}}\n'
        'left: {policy: {ros__parameters: {threads: 2}}}\n'
        '/*/teleop: {ros__parameters: {rate: 20.0}}\n'
        '/left/camera/front: {ros__parameters: {rgb_camera.gain: 12}}\n'
    )
    texts = {'robot': 'fr3_ruiyan', 'cameras': 'realsense2_camera', 'parameter_file': str(path)}
    for namespace in ('left', '/left/'):
        check_parameter_file(APPLICATIONS['online_rl'].values({**texts, 'namespace': namespace}))
    with pytest.raises(UserError, match='there is no node /left/policy; .*/camera/wrist'):
        check_parameter_file(APPLICATIONS['online_rl'].values(texts))
