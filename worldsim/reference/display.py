"""The way to pixels: one graphics pipe per process, one off-screen buffer per world, one display region per camera.

EGL (Mesa's llvmpipe, no X server, no GPU) is the renderer of record.  Where it cannot start, Panda3D's own software
rasteriser takes over and says so in `Display.renderer`.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
from panda3d.core import (
    Camera as PandaCamera,
)
from panda3d.core import (
    CullBinManager,
    FrameBufferProperties,
    GraphicsEngine,
    GraphicsOutput,
    GraphicsPipe,
    GraphicsPipeSelection,
    NodePath,
    PerspectiveLens,
    Texture,
    WindowProperties,
    loadPrcFileData,
)

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import U8

NEAR_M, FAR_M = 0.25, 360.0
PIPES = {"p3headlessgl": "eglGraphicsPipe", "p3tinydisplay": "TinyOffscreenGraphicsPipe"}
_MESA = Path("/usr/share/glvnd/egl_vendor.d/50_mesa.json")
_PRC = """
window-type offscreen
audio-library-name null
sync-video 0
support-threads 0
garbage-collect-states 0
textures-power-2 none
framebuffer-srgb 0
notify-level-display fatal
notify-level-egldisplay fatal
notify-level-x11display fatal
notify-level-glgsg error
"""  # without ShowBase nobody collects states: with the default setting memory would grow by 80 MB per 1000 frames


class NoRendererError(RuntimeError):
    """No graphics pipe can open a buffer on this machine."""


@cache
def _configure() -> None:
    # one raster thread per process: workers fill the other cores; software rendering: the same bytes on every host
    os.environ.setdefault("LP_NUM_THREADS", "1")
    os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")
    if _MESA.is_file():
        os.environ.setdefault("__EGL_VENDOR_LIBRARY_FILENAMES", str(_MESA))
    loadPrcFileData("efficientgen", _PRC)
    # the opaque bin sorts by the addresses of states, which decides who wins where two faces lie in one plane; in the
    # scene's own order the same scene gives the same bytes
    bins = CullBinManager.getGlobalPtr()
    bins.setBinType(bins.findBin("opaque"), CullBinManager.BTUnsorted)


@cache
def _pipe(load_display: str) -> GraphicsPipe | None:
    """A pipe that can open buffers, or None; asked once per process."""
    _configure()
    pipe = GraphicsPipeSelection.getGlobalPtr().makePipe(PIPES[load_display], load_display)
    return pipe if pipe is not None and pipe.isValid() else None


class Display:
    """One buffer with the cameras of a rig side by side.

    Args:
        rig: cameras of one common size.
        supersample: the buffer is this many times larger in both directions and averaged down.
        load_display: "p3headlessgl" or "p3tinydisplay"; None tries them in this order.

    Raises:
        NoRendererError: none of them starts.
        ValueError: the cameras differ in size, or `load_display` is unknown.
    """

    def __init__(self, rig: tuple[Camera, ...], supersample: int = 1, load_display: str | None = None) -> None:
        if len({(camera.width, camera.height) for camera in rig}) != 1:
            raise ValueError("the cameras of a rig must share one size; draw differing ones with one world each")
        if load_display is not None and load_display not in PIPES:
            raise ValueError(f"load_display '{load_display}' is none of {', '.join(PIPES)}")
        self.rig, self.scale = rig, supersample
        self.width, self.height = rig[0].width, rig[0].height
        self._engine = GraphicsEngine.getGlobalPtr()
        self._texture = Texture("pixels")
        self.buffer = self._open([load_display] if load_display else list(PIPES))
        self.buffer.addRenderTexture(self._texture, GraphicsOutput.RTMCopyRam, GraphicsOutput.RTPColor)
        self.root = NodePath("ego")  # the ego frame; the caller moves it and gives it a parent
        self.cameras: list[NodePath] = []
        for k, camera in enumerate(rig):
            region = self.buffer.makeDisplayRegion(k / len(rig), (k + 1) / len(rig), 0, 1)
            node = self.root.attachNewNode(PandaCamera(camera.name, lens_of(camera)))
            node.setPos(*camera.mount)
            node.setHpr(camera.yaw_deg - 90.0, camera.pitch_deg, 0)  # Panda3D cameras look along +y
            region.setCamera(node)
            self.cameras.append(node)

    @property
    def renderer(self) -> str:
        """What draws: e.g. "EGL llvmpipe (LLVM 15.0.6, 256 bits), Mesa 22.3.6"."""
        gsg = self.buffer.getGsg()
        if self.basic:
            return "Panda3D software (p3tinydisplay)"
        return f"EGL {gsg.getDriverRenderer()}, {gsg.getDriverVersion().split(') ')[-1]}"

    @property
    def basic(self) -> bool:
        """Whether Panda3D's own rasteriser draws."""
        return self.buffer.getPipe().getInterfaceName() != "OpenGL"

    def _open(self, names: list[str]) -> GraphicsOutput:
        properties = FrameBufferProperties()
        properties.setRgbaBits(8, 8, 8, 8)
        properties.setDepthBits(24)
        size = WindowProperties.size(self.width * len(self.rig) * self.scale, self.height * self.scale)
        for name in names:
            pipe = _pipe(name)
            if pipe is None:
                continue
            buffer = self._engine.makeOutput(pipe, "cameras", 0, properties, size, GraphicsPipe.BFRefuseWindow)
            if buffer is not None:
                self._engine.openWindows()
                if buffer.isValid():
                    return buffer
                self._engine.removeWindow(buffer)
        raise NoRendererError(
            f"none of {', '.join(names)} can open a buffer here; install libegl1 libegl-mesa0 libgl1-mesa-dri "
            "(Debian, Ubuntu), or pass load_display='p3tinydisplay'"
        )

    def set_background(self, colour: tuple[float, float, float]) -> None:
        """What shows where nothing is drawn."""
        self.buffer.setClearColor((*colour, 1))

    def grab(self) -> U8:
        """Draws one frame and returns (n_cams, H, W, 3) RGB."""
        self.buffer.setActive(True)  # other buffers of the process stay as they are
        self._engine.renderFrame()
        self.buffer.setActive(False)
        pixels = np.frombuffer(self._texture.getRamImage(), np.uint8)
        count, s = len(self.rig), self.scale
        image = pixels.reshape(self.height * s, count * self.width * s, 4)[::-1, :, 2::-1]  # BGRA, bottom row first
        if s > 1:
            rows = image.reshape(self.height, s, count * self.width * s, 3).sum(1, dtype=np.uint16)
            total = rows.reshape(self.height, count * self.width, s, 3).sum(2, dtype=np.uint16)
            image = ((total + s * s // 2) // (s * s)).astype(np.uint8)
        views = image.reshape(self.height, count, self.width, 3)
        return np.ascontiguousarray(views.transpose(1, 0, 2, 3))

    def close(self) -> None:
        """Frees the buffer; the process keeps its pipe for the next world."""
        self._engine.removeWindow(self.buffer)
        self.root.removeNode()


def lens_of(camera: Camera) -> PerspectiveLens:
    """The pinhole of `camera`."""
    lens = PerspectiveLens()
    lens.setFilmSize(camera.width, camera.height)
    lens.setFocalLength(camera.focal)
    lens.setNearFar(NEAR_M, FAR_M)
    return lens
