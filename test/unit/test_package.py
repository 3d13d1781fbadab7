"""package.xml, setup.py, CMakeLists.txt and the requirements agree with what the code imports and starts."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from importlib import metadata

import pytest
from test_layers import FILES, PACKAGE, ROOT, imported

from dex_rl_nodes import __version__
from dex_rl_nodes.descriptions import NODES
from dex_rl_nodes.graph import STAGES

# the distribution or rosdep key a module comes from, where it has another name
PYPI = {
    'PIL': 'pillow',
    'yaml': 'pyyaml',
    'cv2': 'opencv-python-headless',
    'serial': 'pyserial',
    'mcap_ros2': 'mcap-ros2-support',
}
BROUGHT = {'tornado': 'circus', 'psutil': 'circus'}  # modules that come with another requirement
ROSDEP = {'PIL': 'python3-pil', 'serial': 'python3-serial', 'yaml': 'python3-yaml'}


def package_xml() -> xml.Element:
    return xml.parse(ROOT / 'package.xml').getroot()


def required(*names: str) -> set[str]:
    lines = [line for name in names for line in (ROOT / 'requirements' / name).read_text().splitlines()]
    return {re.split(r'[<>=;\[ ]', line)[0].lower() for line in lines if line and not line.startswith('#')}


def third_party(files) -> set[str]:
    modules = {module.split('.')[0] for path in files for module in imported(path)}
    local = {'dex_rl_nodes', *(path.stem for path in (ROOT / 'test').rglob('*.py'))}
    return modules - set(sys.stdlib_module_names) - local


def test_every_import_is_declared():
    declared = {element.text for element in package_xml() if element.tag.endswith('depend')}
    libraries = required('runtime.txt', 'torch.txt', 'optional.txt')
    for module in third_party(FILES):
        name = PYPI.get(module, BROUGHT.get(module, module)).replace('_', '-')
        assert {module, ROSDEP.get(module, f'python3-{module}')} & declared or name in libraries, module


def test_no_requirement_is_unused():
    used = {PYPI.get(module, module).replace('_', '-') for module in third_party(FILES)}
    if any('torch.utils.tensorboard' in imported(path) for path in FILES):
        used.add('tensorboard')  # PyTorch loads it
    assert required('runtime.txt', 'optional.txt') - used == set()


def test_imports_of_tests_are_declared():
    declared = required('test.txt', 'runtime.txt', 'torch.txt', 'optional.txt')
    declared |= {element.text for element in package_xml() if element.tag.endswith('depend')}
    for module in third_party((ROOT / 'test').rglob('*.py')):
        assert {module, PYPI.get(module, BROUGHT.get(module, module)).replace('_', '-')} & declared, module


def test_locks_pin_what_the_requirements_name():
    pinned = {}
    for name in ('ros.lock', 'library.lock'):
        for line in (ROOT / 'requirements' / name).read_text().splitlines():
            package, version = line.split(' ;')[0].strip().split('==')
            pinned.setdefault(package, set()).add(version)
    assert required('ros.txt', 'runtime.txt', 'test.txt') <= set(pinned)
    assert all(version.startswith('2.') for version in pinned['numpy'])
    assert all(int(version.split('.')[0]) < 80 for version in pinned['setuptools'])
    assert 'torch' not in pinned  # its CPU build comes from another index


@pytest.mark.skipif('PYTEST_XDIST_WORKER' not in os.environ, reason='tests run in one process')
def test_tests_of_a_group_stay_with_one_worker(request):
    # xdist reads a group from the name of a test; some versions of pytest keep it from writing it there
    assert request.node.nodeid.endswith('@test_package.py')


def test_versions_agree():
    assert package_xml().findtext('version') == __version__


def test_licence():
    assert package_xml().findtext('license') == 'Apache-2.0'
    assert 'Version 2.0, January 2004' in (ROOT / 'LICENSE').read_text()


def test_executables_are_the_nodes():
    listed = re.search(r'set\(executables(.*?)\)', (ROOT / 'CMakeLists.txt').read_text(), re.DOTALL).group(1).split()
    assert set(listed) == set(NODES)
    for name in listed:
        text = (PACKAGE / 'nodes' / f'{name}.py').read_text()
        assert re.search(r'^def main\(', text, re.MULTILINE) and "__name__ == '__main__'" in text, name
    assert (PACKAGE / STAGES / '__main__.py').exists()


def test_setup_py_has_the_version_of_the_package():
    result = subprocess.run(
        [sys.executable, 'setup.py', '--quiet', '--version'], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == __version__, result.stderr


def test_build_overlays_the_generated_package():
    """A second ament_python_install_package of this name is a configure error up to Kilted; order matters too."""
    text = (ROOT / 'CMakeLists.txt').read_text()
    assert 'ament_python_install_package' not in text
    assert text.index('rosidl_generate_interfaces(') < text.index('install(DIRECTORY dex_rl_nodes/')


@pytest.mark.parametrize('distribution', ['circus', 'pydantic', 'mujoco'])
def test_the_environment_has_the_libraries(distribution):
    assert metadata.version(distribution)
