"Kinds of dirt, and what each one must give: a row in the table, an error that names the file, or a repair"
import warnings
import numpy as np, pytest
from PIL import Image
from ssd_fastai.all import *
from ssd_fastai.data.check import set_rows, usable
from ssd_fastai.data.photos import turned_boxes

def noise(seed=0, size=(64,48)):
    "A smooth picture, another one for each seed"
    small = np.random.default_rng(seed).integers(0, 255, (6,8,3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)

def data(tmp, boxes=([5,5,20,20],), labels=None, save=None, n=6):
    "A data set of n clean photos with one object of class a, and a last one as asked for"
    for i in range(n): noise(i+1).save(tmp/f'ok{i}.png')
    f = save(tmp) if save else tmp/'odd.png'
    if not save: noise(99).save(f)
    ok = [Record(tmp/f'ok{i}.png', (64,48), [[1,1,30,30]], ['a']) for i in range(n)]
    boxes = np.array(boxes, dtype=float).reshape(-1,4)
    return Annotations([*ok, Record(f, (64,48), boxes, labels or ['a']*len(boxes))])

def saver(name, im, **kw):
    def save(tmp):
        im.save(tmp/name, **kw)
        return tmp/name
    return save

def cut(tmp):
    f = saver('odd.jpg', noise())(tmp)
    f.write_bytes(f.read_bytes()[:-300])
    return f

def text(tmp):
    (tmp/'odd.jpg').write_text('no photo')
    return tmp/'odd.jpg'

def exif(value):
    e = Image.Exif()
    e[0x112] = value
    return e

gray,deep = noise().convert('L'),Image.new('I;16', (64,48), 9999)
turned = saver('odd.jpg', noise(5,(48,64)), exif=exif(8))
pages = saver('odd.tif', noise(), save_all=True, append_images=[noise(1)])
twelve = Image.fromarray((np.asarray(gray)*16.).astype(np.uint16))
many = [[x,y,x+5,y+5] for x in range(0,60,6) for y in range(0,44,4)]

rows = [
    ('no boxes',        dict(boxes=[]),                                          'no objects',      'kept'),
    ('tiny',            dict(boxes=[[5,5,7,20]]),                                'tiny',            'hardly'),
    ('twice',           dict(boxes=[[5,5,20,20]]*2),                             'same box as 0',   'kept twice'),
    ('two classes',     dict(boxes=[[5,5,20,20]]*2,labels=['a','b']),            'but that is a',   'kept twice'),
    ('nearly twice',    dict(boxes=[[5,5,30,30],[5,5,30,31]]),                   'nearly the box',  'kept twice'),
    ('too many',        dict(boxes=many),                                        '110 objects',     'max_dets'),
    ('case',            dict(boxes=[[5,5,20,20]],labels=['A']),                  "differs from 'A'",'two classes'),
    ('space',           dict(boxes=[[5,5,20,20]],labels=['a ']),                 "differs from 'a'",'two classes'),
    ('rare class',      dict(boxes=[[5,5,20,20]],labels=['zebra']),              '1 objects',       'AP is chance'),
    ('gray',            dict(save=saver('odd.png',gray)),                        'mode L',          'made RGB'),
    ('alpha',           dict(save=saver('odd.png',noise().convert('RGBA'))),     'mode RGBA',       'made RGB'),
    ('16 bits',         dict(save=saver('odd.png',deep)),                        'mode I;16',       'made RGB'),
    ('12 bits',         dict(save=saver('odd.png',twelve)),                      'values ',         '4095 is white'),
    ('CMYK',            dict(save=saver('odd.jpg',noise().convert('CMYK'))),     'mode CMYK',       'made RGB'),
    ('palette',         dict(save=saver('odd.png',noise().convert('P'))),        'mode P',          'made RGB'),
    ('pages',           dict(save=pages),                                        '2 pages',         'only the first'),
    ('EXIF',            dict(save=turned),                                       'EXIF orientation','right way up'),
    ('truncated',       dict(save=cut),                                          'cannot be read',  'will stop'),
    ('no photo',        dict(save=text),                                         'cannot be read',  'will stop'),
    ('missing',         dict(save=lambda t: t/'gone.jpg'),                       'cannot be read',  'will stop'),
    ('other size',      dict(save=saver('odd.png',noise(7,(80,60)))),            'is 80×60',        'wrong place'),
    ('same file twice', dict(save=saver('odd.png',noise(1))),                    'the same file',   'counted twice'),
    ('saved again',     dict(save=saver('odd.jpg',noise(1),quality=92)),         'looks the same',  'counted twice')]

@pytest.mark.parametrize('kw,problem,action', [r[1:] for r in rows], ids=[r[0] for r in rows])
def test_dirt_gives_a_row(tmp_path, kw, problem, action):
    with warnings.catch_warnings():
        warnings.simplefilter('error')              # what is in the table is not a warning as well
        t = data(tmp_path,**kw).check(progress=False)
    hit = t[t.problem.str.contains(problem,regex=False)]
    assert len(hit)==1 and action in hit.iloc[0].action, t.to_string()

def test_clean_data_gives_no_rows(tmp_path): assert len(data(tmp_path).check(progress=False))==0

@pytest.mark.parametrize('box,what', [([5,5,5,20],'no area'),([500,5,520,20],'outside'),([40,20,90,40],'partly')])
def test_what_the_reader_did_is_in_the_table(tmp_path, box, what):
    columns = ['path','label','x0','y0','x1','y1']
    df = pd.DataFrame([('ok.png','a',*b) for b in ([1,1,30,30],)*5+(box,)], columns=columns)
    noise().save(tmp_path/'ok.png')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a = read_csv(df, tmp_path)
    assert any(what in p for p in a.check(progress=False).problem)

def test_photos_in_both_sets(tmp_path):
    a = data(tmp_path)
    noise(2).save(tmp_path/'copy.jpg', quality=92)
    v = Annotations([Record(tmp_path/'copy.jpg',(64,48),[],[]), Record(tmp_path/'ok3.png',(64,48),[[1,1,30,30]],['a'])])
    t = a.check(v, progress=False)
    t = t[t.problem.str.startswith('in both')]
    assert dict(zip(t.file,t.problem))=={'copy.jpg':'in both sets: looks the same as ok1.png',
                                         'ok3.png':'in both sets: the same file as ok3.png'}

def test_fix(tmp_path):
    a = data(tmp_path, boxes=[[5,5,20,20],[5,5,20,20],[5,5,20,21],[9,9,30,30]], labels=['a','a','a','A '])
    t = a.check(fix=True, progress=False)
    assert a.vocab==['a'] and a[6].labels==['a']*3 and len(a[6].boxes)==3 and len(a[6].crowd)==3
    assert sum(t.action.str.startswith('repaired'))==2
    again = a.check(progress=False)
    assert not any(again.problem.str.startswith(('same','differs')))
    assert any(again.problem.str.startswith('nearly'))      # that one needs eyes

def test_bccd_is_dirty(bccd):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a = read_voc(bccd/'JPEGImages', bccd/'Annotations')
    t = a.check(progress=False)
    assert sum(t.problem=='no area')==2 and set(t.columns)=={'file','object','problem','action'}

# Labels drawn on the photo as it is stored

def turned_copies(tmp, records, o, right):
    "Photos that EXIF turns, with right boxes or with those that somebody drew on the stored photo"
    back = {2:'FLIP_LEFT_RIGHT',3:'ROTATE_180',6:'ROTATE_90',8:'ROTATE_270'}[o]
    inverse = {6:8,8:6}.get(o,o)
    res = []
    for i,r in enumerate(records):
        f = tmp/f'{o}_{i}.jpg'
        open_photo(r.path).transpose(Image.Transpose[back]).save(f, exif=exif(o), quality=95)
        stored = r.size if o<5 else r.size[::-1]
        res.append(Record(f, r.size, r.boxes if right else turned_boxes(r.boxes, inverse, stored), r.labels))
    return Annotations(res)

def suspected(a):
    t = a.check(progress=False)
    one,rule = t.problem.str.contains('fit it better before EXIF'),t.problem.str.contains('photos that EXIF turns')
    return set(t[one].file),bool(rule.any())

@pytest.mark.parametrize('o', [2,3,6,8])
def test_labels_of_the_stored_photo_are_found(tmp_path, train, o):
    recs = [r for r in train if len(r.labels)>4][:8]
    assert suspected(turned_copies(tmp_path, recs, o, right=True))==(set(),False)
    files,rule = suspected(turned_copies(tmp_path, recs, o, right=False))
    assert len(files)>=7 and rule

def test_labels_of_the_stored_photo_are_found_on_real_photos_together(tmp_path, bccd):
    "One photo in a busy scene proves little, twenty do"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        recs = read_voc(bccd/'JPEGImages', bccd/'Annotations').records[:20]
    assert suspected(turned_copies(tmp_path, recs, 3, right=True))==(set(),False)
    assert suspected(turned_copies(tmp_path, recs, 3, right=False))[1]

# What a data set lacks

def flagged(a, flag):
    for r in a: setattr(r, flag, np.ones(len(r.labels), dtype=bool))
    return a

@pytest.mark.parametrize('flag', ['crowd','difficult'])
def test_a_training_set_of_ignored_objects_is_told(tmp_path, flag):
    a = flagged(data(tmp_path), flag)
    t = a.check(progress=False)
    assert 'nothing can be learned' in set(t.action) and any('7 that are ignored' in p for p in t.problem)
    assert not set_rows(a, a, ignore=()) and usable(a, ())['a']==7 and usable(a)['a']==0
    with pytest.raises(ValueError, match='Every object in `train` is marked as crowd or difficult'):
        BBoxDataLoaders.from_annotations(a, data(tmp_path), size=32, bs=2)

def test_a_validation_set_without_objects_is_told(tmp_path):
    a,empty = data(tmp_path),Annotations([Record(tmp_path/'ok1.png',(64,48),[],[])],['a'])
    assert 'AP cannot be measured' in set(a.check(empty, progress=False).action)
    with pytest.warns(UserWarning, match='validation set has no objects: AP cannot be measured'):
        BBoxDataLoaders.from_annotations(a, empty, size=32, bs=2)

def test_a_crowded_validation_photo_is_told(tmp_path):
    a,v = data(tmp_path),data(tmp_path, boxes=many)
    assert any(p.startswith('1 validation photos have more than 100 objects (odd.png') for p in a.check(v,
        progress=False).problem)
    with pytest.warns(UserWarning, match='AP counts 100 detections a photo'):
        BBoxDataLoaders.from_annotations(a, v, size=32, bs=2)
    v[6].crowd[:20] = True                          # crowds are not counted
    assert not set_rows(a, v)

# Near-duplicates and splitting

def video(tmp, n, seed):
    "Frames of one scene, each a little brighter"
    for i in range(n): noise(seed).point(lambda v: v//2+2*i).save(tmp/f'{seed}_{i}.png')
    return [Record(tmp/f'{seed}_{i}.png', (64,48), [[1,1,30,30]], ['a']) for i in range(n)]

@pytest.mark.parametrize('seed', range(5))
def test_split_keeps_near_duplicates_together(tmp_path, seed):
    a = Annotations([r for s in range(10) for r in video(tmp_path, 4, s)])
    t,v = a.split(.2, seed)
    assert len(v)==8 and len(t)==32
    assert not {r.path.name[0] for r in t} & {r.path.name[0] for r in v}
    apart = a.split(.2, seed, together=False)
    assert len(apart[1])==8 and {r.path.name[0] for r in apart[0]} & {r.path.name[0] for r in apart[1]}

def test_split_without_duplicates_is_the_plain_split(train):
    for seed in range(3):
        for a,b in zip(train.split(.2, seed), train.split(.2, seed, together=False)):
            assert [r.path for r in a]==[r.path for r in b]

def test_split_of_one_scene_and_little_else(tmp_path):
    a = Annotations(video(tmp_path, 12, 1)+video(tmp_path, 1, 2))
    t,v = a.split(.2)
    assert (len(t),len(v))==(12,1)
    with pytest.warns(UserWarning, match='All photos look the same'): t,v = a[:12].split(.25)
    assert (len(t),len(v))==(9,3)
