"""Off-screen rendering of the simulated cameras, with or without a GPU."""

import ctypes.util
import importlib
import os
import sys

import mujoco
import numpy as np

from dex_rl_nodes.errors import UserError

_LIBRARIES = {'egl': 'EGL', 'osmesa': 'OSMesa'}
_MISSING = (
    'the cameras cannot be drawn, because no off-screen OpenGL works here ({}); install one with '
    '"apt-get install -y libegl1 libgl1-mesa-dri" or "apt-get install -y libosmesa6"'
)


def _gl_context(width: int, height: int):
    """An OpenGL context of the first backend that works; $MUJOCO_GL (egl or osmesa) says which to try first."""
    # Two small images do not profit from several rasteriser threads, and learner and nodes need the cores.
    os.environ.setdefault('LP_NUM_THREADS', '1')
    reasons = []
    first = os.environ.get('MUJOCO_GL', 'egl')
    for backend in sorted(_LIBRARIES, key=lambda name: name != first):
        if not ctypes.util.find_library(_LIBRARIES[backend]):
            reasons.append(f'no lib{_LIBRARIES[backend]}')
            continue
        try:
            return _import_context(backend)(width, height)
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            reasons.append(f'{backend}: {" ".join(str(error).split())[:120]}')
    raise UserError(_MISSING.format('; '.join(reasons)))


def _import_context(backend: str):
    """MuJoCo's context class of a backend."""
    if os.environ.get('PYOPENGL_PLATFORM') != backend:
        # PyOpenGL fixes its platform when it is first imported: forget the platform that did not work.
        for name in [name for name in sys.modules if name.split('.')[0] == 'OpenGL']:
            del sys.modules[name]
        os.environ['PYOPENGL_PLATFORM'] = backend
    os.environ['MUJOCO_GL'] = backend  # MuJoCo's own loader looks at it
    return importlib.import_module(f'mujoco.{backend}').GLContext


class CameraNoise:
    """Noise of a camera sensor, one grey level up or down: two images of a scene at rest differ, as real ones do."""

    def __init__(self, seed: int):
        self._random = np.random.default_rng([seed, 0x2E])

    def add(self, image: np.ndarray) -> np.ndarray:
        """The image with noise; both uint8."""
        noise = self._random.integers(-1, 2, image.shape, np.int8)
        return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)


class CameraRenderer:
    """Renders the cameras of one model. Use it only from the thread that created it."""

    def __init__(self, model):
        width, height = model.vis.global_.offwidth, model.vis.global_.offheight
        self._model = model
        self._gl = _gl_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._option.flags[mujoco.mjtVisFlag.mjVIS_FLEXSKIN] = 1
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(self, data, camera: int, width: int, height: int) -> np.ndarray:
        """Image of camera `camera`, uint8 (height, width, 3) RGB."""
        self._gl.make_current()
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        rectangle = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rectangle, self._scene, self._context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, rectangle, self._context)
        return np.ascontiguousarray(image[::-1])

    def close(self) -> None:
        """Free the OpenGL context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()
