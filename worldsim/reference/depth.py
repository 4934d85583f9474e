"""Depth, semantics and instances: the scene drawn once more, into floats, by cameras that see only what is solid.

The pass draws the same geometry in the same order as the pictures, so that depth and labels agree with them pixel by
pixel; its fragment shader writes depth, class and instance where the pictures have colour.  Shadows, glows, rain and
sky are hidden from it.  It needs shaders and float buffers, which Panda3D's own rasteriser lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from panda3d.core import Camera as PandaCamera
from panda3d.core import (
    FrameBufferProperties,
    GraphicsEngine,
    GraphicsOutput,
    GraphicsPipe,
    LVecBase4,
    NodePath,
    RenderState,
    Shader,
    ShaderAttrib,
    Texture,
    WindowProperties,
)

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import U8, Actor
from efficientgen.worldsim.reference.display import Display, lens_of
from efficientgen.worldsim.reference.labels import CUT, LIGHT, OF_KIND, SOLID, TAG, Label, actor_tag

_VERTEX = """
#version 130
in vec4 p3d_Vertex, p3d_Color;
in vec2 p3d_MultiTexCoord0;
uniform mat4 p3d_ModelViewMatrix, p3d_ProjectionMatrix;
out float depth, alpha;
out vec2 uv;
void main() {
    vec4 eye = p3d_ModelViewMatrix * p3d_Vertex;
    depth = -eye.z;
    alpha = p3d_Color.a;
    uv = p3d_MultiTexCoord0;
    gl_Position = p3d_ProjectionMatrix * eye;
}
"""
_FRAGMENT = """
#version 130
in float depth, alpha;
in vec2 uv;
uniform sampler2D p3d_Texture0;
uniform vec4 sensed;  // class (-1: in the vertex alpha), instance, cut holes by texture?, class where alpha is silent
out vec4 color;
void main() {
    if (sensed.z > 0.5 && alpha * texture(p3d_Texture0, uv).a < 0.45) discard;
    float label = sensed.x < 0.0 ? floor(255.5 - 255.0 * alpha) : sensed.x;
    color = vec4(depth, label < 0.5 ? sensed.w : label, sensed.y, 1.0);
}
"""


class DepthUnsupportedError(RuntimeError):
    """Depth, semantics or lidar were asked of a renderer without shaders."""


@dataclass(frozen=True)
class RangeImages:
    """What the cameras measure at one tick, each (n_cams, H, W).

    `depth` is float32 m along the optical axis, inf where there is nothing; `labels` holds `Label`s; `instances` is
    0 or 1 + the index of the actor in the frame.
    """

    stamp_ns: int
    depth: NDArray[np.float32]
    labels: U8
    instances: NDArray[np.uint16]


class RangeCameras:
    """One float buffer with `cameras` side by side, in the ego frame of `display`.

    Raises:
        DepthUnsupportedError: the display draws without EGL.
    """

    def __init__(self, display: Display, cameras: Sequence[Camera]) -> None:
        if display.basic:
            raise DepthUnsupportedError(
                f"{display.renderer} has no shaders, and so no depth, semantics or lidar; install libegl1 "
                "libegl-mesa0 libgl1-mesa-dri (Debian, Ubuntu), or leave those sensors out"
            )
        self.count, self.width, self.height = len(cameras), cameras[0].width, cameras[0].height
        self._engine = GraphicsEngine.getGlobalPtr()
        self._texture = Texture("ranges")
        self._buffer = self._open(display)
        self._nodes: list[NodePath] = []
        for k, camera in enumerate(cameras):
            eye = PandaCamera(camera.name, lens_of(camera))
            eye.setCameraMask(SOLID)
            eye.setInitialState(_state(-1, drawn=True))
            eye.setTagStateKey(TAG)
            node = display.root.attachNewNode(eye)
            node.setPos(*camera.mount)
            node.setHpr(camera.yaw_deg - 90.0, camera.pitch_deg, 0)
            region = self._buffer.makeDisplayRegion(k / self.count, (k + 1) / self.count, 0, 1)
            region.setCamera(node)
            self._nodes.append(node)

    def _open(self, display: Display) -> GraphicsOutput:
        properties = FrameBufferProperties()
        properties.setFloatColor(True)
        properties.setRgbaBits(32, 32, 32, 32)
        properties.setDepthBits(24)
        size = WindowProperties.size(self.width * self.count, self.height)
        host = display.buffer
        buffer = self._engine.makeOutput(
            host.getPipe(), "ranges", -1, properties, size, GraphicsPipe.BFRefuseWindow, host.getGsg(), host
        )
        if buffer is None:
            raise DepthUnsupportedError(f"{display.renderer} cannot open a float buffer of {size.getXSize()} columns")
        buffer.addRenderTexture(self._texture, GraphicsOutput.RTMCopyRam, GraphicsOutput.RTPColor)
        buffer.setClearColor((0, 0, 0, 0))
        buffer.setActive(False)
        return buffer

    def grab(self, actors: Sequence[Actor], stamp_ns: int) -> RangeImages:
        """Draws the scene as it stands; `actors` are those of the frame that it shows."""
        for node in self._nodes:
            eye = node.node()
            eye.clearTagStates()
            eye.setTagState(CUT, _state(-1, cut=True))
            eye.setTagState(LIGHT, _state(Label.TRAFFIC_LIGHT))
            for k, actor in enumerate(actors):
                eye.setTagState(actor_tag(actor), _state(OF_KIND[actor.kind], k + 1))
        self._buffer.setActive(True)
        self._engine.renderFrame()
        self._buffer.setActive(False)
        if not self._texture.hasRamImage():
            raise DepthUnsupportedError("the float buffer gave no pixels back; leave depth, semantics and lidar out")
        raw = np.frombuffer(self._texture.getRamImage(), np.float32)  # instance, class, depth, 1; bottom row first
        views = raw.reshape(self.height, self.count, self.width, 4)[::-1].transpose(1, 0, 2, 3)
        depth = np.where(views[..., 2] > 0, views[..., 2], np.float32(np.inf))
        return RangeImages(stamp_ns, depth, views[..., 1].astype(np.uint8), views[..., 0].astype(np.uint16))

    def close(self) -> None:
        """Frees the buffer."""
        self._engine.removeWindow(self._buffer)
        for node in self._nodes:
            node.removeNode()


@cache
def _shader() -> Shader:
    return Shader.make(Shader.SLGLSL, _VERTEX, _FRAGMENT)


@cache
def _state(label: int, instance: int = 0, cut: bool = False, drawn: bool = False) -> RenderState:
    """`drawn` names the shader too (the cameras' state); nodes only change its input.  Leaves are what is cut out."""
    attribute = ShaderAttrib.make(_shader()) if drawn else ShaderAttrib.make()
    silent = Label.VEGETATION if cut else Label.BUILDING
    return RenderState.make(attribute.setShaderInput("sensed", LVecBase4(label, instance, cut, silent)))
