"A page in headless Chromium, over its debugging protocol; and a web server for a folder"
import base64, functools, http.server, json, shutil, subprocess, threading, time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

chromium = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)

@contextmanager
def served(folder):
    "The address of a web server that hands out the files of a folder"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1',0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}/'
    finally: server.shutdown()

class Page:
    "One tab of a Chromium"
    def __init__(self, ws): self.ws,self.n,self.errors,self.asked = ws,0,[],[]
    def call(self, method, **params):
        self.n += 1
        self.ws.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while True:
            o = json.loads(self.ws.recv())
            if o.get('method')=='Runtime.exceptionThrown': self.errors.append(o['params'])
            if o.get('method')=='Network.requestWillBeSent': self.asked.append(o['params']['request']['url'])
            if o.get('id')==self.n: return o.get('result',o)
    def js(self, code):
        "The value of an expression; promises are waited for"
        r = self.call('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in r: raise RuntimeError(r['exceptionDetails'])
        return r['result'].get('value')
    def wait(self, code, seconds=60):
        end = time.monotonic()+seconds
        while not self.js(code):
            if time.monotonic()>end: raise TimeoutError(code)
            time.sleep(.1)
    def drop(self, url, on='document'):
        "Drop a file that lies at an address"
        self.js(f"""(async () => {{
            const data = new DataTransfer(), r = await fetch('{url}')
            data.items.add(new File([await r.blob()], '{url}'.split('/').pop(), {{type:r.headers.get('content-type')}}))
            {on}.dispatchEvent(new DragEvent('drop', {{dataTransfer:data, bubbles:true, cancelable:true}}))
        }})()""")
    def picture(self, file):
        "Everything of the page as a picture"
        r = self.call('Page.captureScreenshot', format=Path(file).suffix[1:].replace('jpg','jpeg'), captureBeyondViewport=True)
        Path(file).write_bytes(base64.b64decode(r['data']))

@contextmanager
def browser(url, tmp, size=(900,900)):
    "A page in Chromium"
    import websocket
    p = subprocess.Popen([chromium,'--headless','--no-sandbox','--disable-gpu','--remote-debugging-port=0',
                          '--remote-allow-origins=*',f'--user-data-dir={tmp}/chromium',f'--window-size={size[0]},{size[1]}',
                          'about:blank'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        file,end = Path(tmp)/'chromium/DevToolsActivePort',time.monotonic()+60
        while not (file.exists() and file.read_text().strip()):
            if time.monotonic()>end: raise TimeoutError('Chromium does not start')
            time.sleep(.1)
        tabs = json.loads(urlopen(f'http://127.0.0.1:{file.read_text().split()[0]}/json').read())
        ws = websocket.create_connection(next(t for t in tabs if t['type']=='page')['webSocketDebuggerUrl'], timeout=120)
        page = Page(ws)
        for o in ('Page','Runtime','Network'): page.call(f'{o}.enable')
        page.call('Page.navigate', url=url)
        page.wait("document.readyState==='complete'")
        yield page
        ws.close()
    finally:
        p.terminate()
        p.wait(30)
