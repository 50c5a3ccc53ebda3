"The sample data: boxes where the cells are, and drawing it safely"
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from PIL import Image
from ssd_fastai.all import *
import ssd_fastai.data.sample as sample

def test_boxes_inside_and_visible(train, valid):
    for r in [*train.records,*valid.records]:
        w,h = r.size
        assert (r.boxes[:,2:]-r.boxes[:,:2]>=4).all() and (r.boxes>=0).all()
        assert (r.boxes[:,[0,2]]<=w).all() and (r.boxes[:,[1,3]]<=h).all()

def test_it_is_a_data_set(train, valid):
    assert len(train)==240 and len(valid)==60
    assert sum(not r.labels for r in valid)>=2 and sum(not r.labels for r in train)>=5
    n = valid.stats()['objects']
    assert n['RBC']>300 and n['WBC']>30 and n['Platelets']>60
    assert train.stats()['width %']['Platelets']<8

def test_boxes_are_where_the_cells_are(train):
    "Oracle: platelets and white cells are the darkest violet things, so the middle of their boxes must be dark"
    for r in train.records[:40]:
        im = np.asarray(Image.open(r.path).convert('RGB')).astype(float)
        for b,l in zip(r.boxes,r.labels):
            if l!='Platelets': continue
            x,y = ((b[:2]+b[2:])/2).astype(int)
            assert im[max(y-1,0):y+2,max(x-1,0):x+2].mean() < np.median(im)-20, (r.path,b)

def test_another_process_may_finish_at_any_moment(tmp_path, monkeypatch):
    "Between the look whether the folder is there and the move, too"
    real,looks = sample._made,[]
    def made(path, name):
        res = real(path, name)
        if not looks and any(tmp_path.glob('.drawing*/made.txt')): # the second look: now the other one finishes
            looks.append(1)
            make_cells(path, n=12)
        return res
    monkeypatch.setattr(sample, '_made', made)
    assert len(list((make_cells(tmp_path/'c', n=12)/'images').iterdir()))==12 and looks
    assert not list(tmp_path.glob('.drawing*'))

def test_two_processes_may_draw_at_once(tmp_path):
    with ThreadPoolExecutor(2) as ex: a,b = ex.map(lambda _: make_cells(tmp_path/'c', n=12), range(2))
    assert a==b and len(list((a/'images').iterdir()))==12 and not list(tmp_path.glob('.drawing*'))
