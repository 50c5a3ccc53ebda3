"Films keep their frames, times, sound and uprightness; boxes follow what moves"
import numpy as np, pytest
from PIL import Image
av = pytest.importorskip('av')
from ssd_fastai.use.onnx_detector import Found
from ssd_fastai.use.video import FilmWriter, detect_video, paint_film, video_frames

class Red:
    "Finds what is red"
    seen = 0
    def predict(self, photos, min_score=None):
        self.seen += len(photos)
        return [self.one(np.asarray(p,int)) for p in photos]
    def one(self, a):
        y,x = np.nonzero((a[...,0]>150)&(a[...,1]<90))
        box = [[x.min(),y.min(),x.max()+1,y.max()+1]] if len(x) else np.zeros((0,4))
        return Found(np.array(box,float), np.ones(len(box)), np.zeros(len(box),int), ['square'])

def squares(n=9, size=(64,48)):
    "Frames whose square says which one it is"
    for i in range(n):
        im = Image.new('RGB', size, (60,90,120))
        im.paste((230,30,30), (4*i,10,4*i+16,26))
        yield im

def rated(file):
    with av.open(str(file)) as f: return f.streams.video[0].codec_context.name,len(f.streams.audio)

@pytest.mark.parametrize('name', ['a.mp4','a.mkv','a.mov','a.webm','a.gif'])
def test_frames_and_their_order_are_kept(tmp_path, name):
    paint_film(tmp_path/'in.mp4', n=30, sound=name!='a.webm')
    df = detect_video(Red(), tmp_path/'in.mp4', tmp_path/name, progress=False)
    again = detect_video(Red(), tmp_path/name, progress=False)
    assert df.frame.tolist()==again.frame.tolist()==list(range(30))
    assert np.abs(df.x0-again.x0).max()<=5 and (np.diff(again.x0)>=-1).all() # a line of five pixels is drawn around it
    assert np.abs(df.seconds-again.seconds).max()<.011
    if name!='a.gif': assert rated(tmp_path/name)[1]==(name!='a.webm')

def test_boxes_follow_the_painted_object(tmp_path):
    boxes = paint_film(tmp_path/'in.mp4', n=40)
    df = detect_video(Red(), tmp_path/'in.mp4', progress=False)
    assert np.abs(df[['x0','y0','x1','y1']].to_numpy()-boxes).max()<=2

@pytest.mark.parametrize('size', [(63,47),(64,47),(63,48)])
def test_odd_sizes_and_uneven_times(tmp_path, size):
    times = np.cumsum([0,.04,.04,.2,.033,.05,.5,.01,.02])
    with FilmWriter(tmp_path/'a.mp4') as w:
        for t,im in zip(times,squares(size=size)): w.write(im, t)
    got = list(video_frames(tmp_path/'a.mp4'))
    assert np.allclose([t for t,_ in got], times, atol=1e-3)
    assert got[0][1].size==(size[0]+size[0]%2,size[1]+size[1]%2)
    assert np.abs(detect_video(Red(), tmp_path/'a.mp4').x0-4*np.arange(9)).max()<=2

@pytest.mark.parametrize('turn', [90,-90,180])
def test_films_that_lie_on_their_side(tmp_path, turn):
    "As FFmpeg turns them: by `turn` degrees counterclockwise"
    with av.open(str(tmp_path/'a.mp4'),'w') as film:
        v = film.add_stream('mpeg4', rate=10)
        v.width,v.height,v.pix_fmt = 64,48,'yuv420p'
        v.set_display_rotation(turn)
        for im in squares(): film.mux(v.encode(av.VideoFrame.from_image(im)))
        film.mux(v.encode(None))
    with av.open(str(tmp_path/'a.mp4')) as film: told = next(film.decode(video=0)).rotation
    assert abs(told)==abs(turn)
    (_,got),want = next(video_frames(tmp_path/'a.mp4')),next(squares()).rotate(told, expand=True)
    assert got.size==want.size and np.abs(np.asarray(got,float)-np.asarray(want)).mean()<8

def test_every_nth_frame_and_iterables(tmp_path):
    d = Red()
    df = detect_video(d, squares(), tmp_path/'a.mp4', every=4, bs=1, fps=10)
    assert df.frame.tolist()==[0,4,8] and d.seen==3 and len(list(video_frames(tmp_path/'a.mp4')))==9
    assert np.allclose(df.seconds,[0,.4,.8])
    assert detect_video(Red(), squares(), every=4., progress=False).frame.tolist()==[0,4,8]
    arrays = [np.asarray(im) for im in squares()]
    assert detect_video(Red(), arrays, progress=False).x0.tolist()==[4.*i for i in range(9)]

def test_a_frame_without_objects_is_a_row():
    df = detect_video(Red(), [Image.new('RGB',(40,30))]*3, progress=False)
    assert len(df)==3 and df['class'].isna().all() and df.width.tolist()==[40]*3

def test_stopped_in_the_middle(tmp_path):
    "What was seen is kept"
    def camera():
        yield from squares(8)
        raise KeyboardInterrupt
    df = detect_video(Red(), camera(), tmp_path/'a.mp4', csv=tmp_path/'a.csv', bs=4)
    assert len(df)==len(list(video_frames(tmp_path/'a.mp4')))==8 and len((tmp_path/'a.csv').read_text().splitlines())==9

def test_what_is_no_film(tmp_path):
    paint_film(tmp_path/'in.mp4', n=8)
    (tmp_path/'torn.mp4').write_bytes((tmp_path/'in.mp4').read_bytes()[:900])
    (tmp_path/'text.mp4').write_text('no film')
    with av.open(str(tmp_path/'deaf.mp4'),'w') as f:
        a = f.add_stream('aac', rate=16000, layout='mono')
        s = av.AudioFrame.from_ndarray(np.zeros((1,16000),np.int16), format='s16', layout='mono')
        s.sample_rate = 16000
        f.mux(a.encode(s))
        f.mux(a.encode(None))
    for src,dst,says in (('torn.mp4',None,'damaged'),('text.mp4',None,'damaged'),('none.mp4',None,'There is no video'),
                         ('deaf.mp4',None,'no pictures'),('in.mp4','in.mp4','another name'),('in.mp4','a.xyz','use .mp4'),
                         ('in.mp4','a.ogv','use .mp4')):
        with pytest.raises((ValueError,FileNotFoundError), match=says):
            detect_video(Red(), tmp_path/src, dst and tmp_path/dst, progress=False)
    for every in (0,-1,1.5):
        with pytest.raises(ValueError, match='at least 1'): detect_video(Red(), tmp_path/'in.mp4', every=every)
    with pytest.raises(ValueError, match='no frames'): detect_video(Red(), [])
