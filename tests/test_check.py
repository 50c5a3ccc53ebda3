"Kinds of dirt, and what each one must give: a row in the table, an error that names the file, or a repair"
import warnings
import numpy as np, pytest
from PIL import Image
from ssd_fastai.all import *

def noise(seed=0, size=(64,48)):
    "A smooth picture, another one for each seed"
    return Image.fromarray(np.random.default_rng(seed).integers(0,255,(6,8,3),dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)

def data(tmp, boxes=([5,5,20,20],), labels=None, save=None, n=6):
    "A data set of n clean photos with one object of class a, and a last one as asked for"
    for i in range(n): noise(i+1).save(tmp/f'ok{i}.png')
    f = save(tmp) if save else tmp/'odd.png'
    if not save: noise(99).save(f)
    ok = [Record(tmp/f'ok{i}.png',(64,48),[[1,1,30,30]],['a']) for i in range(n)]
    return Annotations(ok+[Record(f,(64,48),np.array(boxes,dtype=float).reshape(-1,4),labels or ['a']*len(boxes))])

def saver(name, im, **kw):
    def f(tmp): im.save(tmp/name,**kw); return tmp/name
    return f

def cut(tmp): f = saver('odd.jpg',noise())(tmp); f.write_bytes(f.read_bytes()[:-300]); return f
def text(tmp): (tmp/'odd.jpg').write_text('no photo'); return tmp/'odd.jpg'
def exif(tmp):
    e = Image.Exif(); e[0x112] = 8
    return saver('odd.jpg',noise(5,(48,64)),exif=e)(tmp)

rows = [
    ('no boxes',        dict(boxes=[]),                                             'no objects',      'kept'),
    ('tiny',            dict(boxes=[[5,5,7,20]]),                                   'tiny',            'hardly'),
    ('twice',           dict(boxes=[[5,5,20,20]]*2),                                'same box as 0',   'kept twice'),
    ('two classes',     dict(boxes=[[5,5,20,20]]*2,labels=['a','b']),               'but that is a',   'kept twice'),
    ('nearly twice',    dict(boxes=[[5,5,30,30],[5,5,30,31]]),                      'nearly the box',  'kept twice'),
    ('case',            dict(boxes=[[5,5,20,20]],labels=['A']),                     "differs from 'A'",'two classes'),
    ('space',           dict(boxes=[[5,5,20,20]],labels=['a ']),                    "differs from 'a'",'two classes'),
    ('rare class',      dict(boxes=[[5,5,20,20]],labels=['zebra']),                 '1 objects',       'AP is chance'),
    ('gray',            dict(save=saver('odd.png',noise().convert('L'))),           'mode L',          'made RGB'),
    ('alpha',           dict(save=saver('odd.png',noise().convert('RGBA'))),        'mode RGBA',       'made RGB'),
    ('16 bits',         dict(save=saver('odd.png',Image.new('I;16',(64,48),9999))), 'mode I;16',       'made RGB'),
    ('CMYK',            dict(save=saver('odd.jpg',noise().convert('CMYK'))),        'mode CMYK',       'made RGB'),
    ('palette',         dict(save=saver('odd.png',noise().convert('P'))),           'mode P',          'made RGB'),
    ('EXIF',            dict(save=exif),                                            'EXIF orientation','right way up'),
    ('truncated',       dict(save=cut),                                             'cannot be read',  'will stop'),
    ('no photo',        dict(save=text),                                            'cannot be read',  'will stop'),
    ('missing',         dict(save=lambda t: t/'gone.jpg'),                          'cannot be read',  'will stop'),
    ('other size',      dict(save=saver('odd.png',noise(7,(80,60)))),               'is 80×60',        'wrong place'),
    ('same file twice', dict(save=saver('odd.png',noise(1))),                       'the same file',   'counted twice'),
    ('saved again',     dict(save=saver('odd.jpg',noise(1),quality=92)),            'looks the same',  'counted twice')]

@pytest.mark.parametrize('kw,problem,action', [r[1:] for r in rows], ids=[r[0] for r in rows])
def test_dirt_gives_a_row(tmp_path, kw, problem, action):
    t = data(tmp_path,**kw).check(progress=False)
    hit = t[t.problem.str.contains(problem,regex=False)]
    assert len(hit)==1 and action in hit.iloc[0].action, t.to_string()

def test_clean_data_gives_no_rows(tmp_path): assert len(data(tmp_path).check(progress=False))==0

@pytest.mark.parametrize('box,what', [([5,5,5,20],'no area'),([500,5,520,20],'outside'),([40,20,90,40],'partly')])
def test_what_the_reader_did_is_in_the_table(tmp_path, box, what):
    df = pd.DataFrame([('ok.png','a',*b) for b in ([1,1,30,30],)*5+(box,)], columns=['path','label','x0','y0','x1','y1']); noise().save(tmp_path/'ok.png')
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); a = read_csv(df, tmp_path)
    assert any(what in p for p in a.check(progress=False).problem)

def test_photos_in_both_sets(tmp_path):
    a = data(tmp_path); noise(2).save(tmp_path/'copy.jpg',quality=92)
    v = Annotations([Record(tmp_path/'copy.jpg',(64,48),[],[]),Record(tmp_path/'ok3.png',(64,48),[],[])])
    t = a.check(v, progress=False)
    assert sorted(t[t.problem.str.startswith('in both')].file)==['copy.jpg','ok3.png']

def test_fix(tmp_path):
    a = data(tmp_path, boxes=[[5,5,20,20],[5,5,20,20],[5,5,20,21],[9,9,30,30]], labels=['a','a','a','A '])
    t = a.check(fix=True, progress=False)
    assert a.vocab==['a'] and a[6].labels==['a']*3 and len(a[6].boxes)==3 and len(a[6].crowd)==3
    assert sum(t.action.str.startswith('repaired'))==2
    again = a.check(progress=False); assert not any(again.problem.str.startswith(('same','differs')))
    assert any(again.problem.str.startswith('nearly'))      # that one needs eyes

def test_bccd_is_dirty(bccd):
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); a = read_voc(bccd/'JPEGImages', bccd/'Annotations')
    t = a.check(progress=False)
    assert sum(t.problem=='no area')==2 and set(t.columns)=={'file','object','problem','action'}
