"""A page in headless Chromium, by its DevTools protocol: pictures, clicks, and what the page says of errors."""

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from PIL import Image

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--use-gl=swiftshader',
    '--enable-unsafe-swiftshader',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--hide-scrollbars',
    '--remote-debugging-port=0',
)
PATIENCE = 240.0  # s; the first picture takes shaders, which software compiles


def find_chromium() -> str:
    """The program; skips the test where it is missing."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f'none of {NAMES} is installed')
    return found


class Browser:
    """One page. `errors` are the messages of its console that are errors, exceptions among them."""

    def __init__(self, link: str, folder: Path, size: tuple[int, int] = (800, 420)):
        """folder: an empty one, for the profile. size: of the page, in px."""
        from websockets.sync.client import connect

        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        argv = [
            find_chromium(),
            *FLAGS,
            f'--user-data-dir={folder}',
            f'--window-size={size[0]},{size[1]}',
            'about:blank',
        ]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = wait_for((folder / 'DevToolsActivePort').exists) and self._read_port(folder)
            pages = json.load(urllib.request.urlopen(f'http://127.0.0.1:{port}/json/list', timeout=PATIENCE))
            (page,) = [page for page in pages if page['type'] == 'page']
            self._socket = connect(page['webSocketDebuggerUrl'], max_size=None, open_timeout=PATIENCE)
            for domain in ('Page', 'Runtime', 'Log'):
                self.call(f'{domain}.enable')
            self.call(
                'Emulation.setDeviceMetricsOverride', width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
            )
            self.call('Page.navigate', url=link)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _read_port(self, folder: Path) -> int:
        lines = wait_for((folder / 'DevToolsActivePort').read_text)
        return int(lines.split('\n')[0])

    def __enter__(self) -> 'Browser':
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(PATIENCE)

    def call(self, method: str, **arguments: object) -> dict:
        """Call a method of the protocol; returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({'id': number, 'method': method, 'params': arguments}))
        while (answer := json.loads(self._socket.recv(PATIENCE))).get('id') != number:
            self._note(answer)
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]}')
        return answer['result']

    def _note(self, event: dict) -> None:
        content = event.get('params', {})
        if event.get('method') == 'Runtime.exceptionThrown':
            self.errors.append(json.dumps(content['exceptionDetails'].get('exception', content['exceptionDetails'])))
        elif event.get('method') == 'Runtime.consoleAPICalled' and content['type'] == 'error':
            self.errors.append(json.dumps(content['args']))
        elif event.get('method') == 'Log.entryAdded' and content['entry']['level'] == 'error':
            self.errors.append(content['entry']['text'])

    def evaluate(self, script: str) -> object:
        """The value of an expression of JavaScript in the page."""
        return self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)['result'].get(
            'value'
        )

    def picture(self) -> np.ndarray:
        """The page, [H, W, 3] uint8."""
        content = base64.b64decode(self.call('Page.captureScreenshot', format='png')['data'])
        return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))

    def box(self, script: str) -> tuple[float, float, float, float]:
        """Left, top, width and height in px of the element that an expression of JavaScript gives."""
        return tuple(self.evaluate(f'(b => [b.left, b.top, b.width, b.height])(({script}).getBoundingClientRect())'))

    def click(self, x: float, y: float) -> None:
        """Press and release the left button of the mouse."""
        for kind in ('mouseMoved', 'mousePressed', 'mouseReleased'):
            button = {} if kind == 'mouseMoved' else {'button': 'left', 'clickCount': 1}
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, **button)


def wait_for(condition, what: str = '', patience: float = PATIENCE):
    """The first value of a function that is true."""
    until = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < until, what or 'expected a change, found none'
        time.sleep(0.1)
    return value
