import json
import numpy as np, pytest
from PIL import Image
from ssd_fastai.all import *
from ssd_fastai.data.photos import photo_size

def coco(tmp_path, anns, size=(64,48), cats=((3,'a'),(7,'b')), n=1):
    for i in range(n): Image.new('RGB', size).save(tmp_path/f'{i}.jpg')
    d = dict(images=[dict(id=i*10,file_name=f'{i}.jpg',width=size[0],height=size[1]) for i in range(n)],
             categories=[dict(id=i,name=c) for i,c in cats],
             annotations=[dict(id=i,image_id=0,category_id=c,bbox=b) for i,(c,b) in enumerate(anns)])
    (tmp_path/'l.json').write_text(json.dumps(d))
    return tmp_path/'l.json',tmp_path

def test_ids_with_gaps_and_empty_photos(tmp_path):
    a = read_coco(*coco(tmp_path, [(7,[1,2,10,20])], n=3))
    assert a.vocab==['a','b'] and a[0].labels==['b'] and a[0].boxes.tolist()==[[1,2,11,22]]
    assert len(a)==3 and a[2].boxes.shape==(0,4) and not a.problems

@pytest.mark.parametrize(
    'box,n,action',
    [
        ([5, 5, 0, 9], 0, 'dropped'),
        ([5, 5, 9, 0], 0, 'dropped'),
        ([5, 5, -3, 9], 0, 'dropped'),
        ([200, 5, 9, 9], 0, 'dropped'),
        ([60, 40, 30, 30], 1, 'clipped'),
        ([-5, -5, 20, 20], 1, 'clipped'),
        ([float('nan'), 5, 9, 9], 0, 'dropped'),
    ],
)
def test_dirty_boxes(tmp_path, box, n, action):
    with pytest.warns(BoxWarning, match=action): a = read_coco(*coco(tmp_path, [(3,box),(3,[1,1,9,9])]))
    b = a[0].boxes
    assert len(b)==n+1 and (b>=0).all() and (b[:,[0,2]]<=64).all() and (b[:,[1,3]]<=48).all()
    assert (b[:,2:]>b[:,:2]).all()
    assert [p[3] for p in a.problems]==[action] and a.problems[0][0].endswith('0.jpg')

@pytest.mark.parametrize('change,error,say', [
    (lambda d: d.pop('categories'), ValueError, 'categories'),
    (lambda d: d['annotations'][0].update(category_id=99), ValueError, 'category 99'),
    (lambda d: d['annotations'][0].update(image_id=99), ValueError, 'image 99'),
    (lambda d: d['annotations'][0].pop('bbox'), ValueError, 'bbox'),
    (lambda d: d['images'][0].update(width=640,height=480), BadPhoto, 'another version'),
    (lambda d: d['images'][0].update(file_name='gone.jpg'), BadPhoto, 'gone.jpg'),
    (lambda d: d['annotations'][0].update(bbox=[1,2,3]), ValueError, 'annotation 0 has the bbox'),
    (lambda d: d['annotations'][0].update(bbox=None), ValueError, 'annotation 0 has the bbox'),
    (lambda d: d.update(images=None), ValueError, 'not a COCO'),
    (lambda d: d.update(images=[],annotations=[]), ValueError, 'no photos')])
def test_broken_files_say_so(tmp_path, change, error, say):
    f,imgs = coco(tmp_path, [(3,[1,1,9,9])])
    d = json.loads(f.read_text())
    change(d)
    f.write_text(json.dumps(d))
    with pytest.raises(error, match=say): read_coco(f, imgs)

def test_half_a_file(tmp_path):
    f,imgs = coco(tmp_path, [(3,[1,1,9,9])])
    f.write_text(f.read_text()[:50])
    with pytest.raises(ValueError, match='Is it complete'): read_coco(f, imgs)
    with pytest.raises(FileNotFoundError, match='nowhere'): read_coco('nowhere.json', imgs)

def test_all_bad_photos_are_named_and_can_be_left_out(tmp_path):
    f,imgs = coco(tmp_path, [(3,[1,1,9,9])], n=4)
    (tmp_path/'1.jpg').unlink()
    (tmp_path/'2.jpg').write_bytes(b'no photo')
    big = Image.fromarray(np.random.default_rng(0).integers(0,255,(48,64,3),dtype=np.uint8))
    big.save(tmp_path/'3.jpg')
    (tmp_path/'3.jpg').write_bytes((tmp_path/'3.jpg').read_bytes()[:-400])
    with pytest.raises(BadPhoto) as e: read_coco(f, imgs)
    assert all(f'{i}.jpg' in str(e.value) for i in (1,2,3))
    with pytest.warns(BoxWarning, match='left out'): a = read_coco(f, imgs, drop_bad=True)
    assert len(a)==1

def xml(obj='', size='<size><width>64</width><height>48</height></size>',
        fn='<filename>0.jpg</filename>'): return f'<annotation>{fn}{size}{obj}</annotation>'
def obj(b, name='<name>a</name>'):
    corners = ''.join(f'<{k}>{v}</{k}>' for k,v in zip(('xmin','ymin','xmax','ymax'),b))
    return f'<object>{name}<bndbox>{corners}</bndbox></object>'

@pytest.mark.parametrize(
    'text,say',
    [
        (xml(size='<size><width/><height>a</height></size>'), '<size>'),
        (xml(obj([1, 1, 9])), 'object 0'),
        (xml(obj([1, 1, 9, 'x'])), 'object 0'),
        (xml(obj([1, 1, 9, 9], '')), 'object 0'),
        ('<annotation>', 'Is it complete'),
    ],
)
def test_bad_xml_is_named(tmp_path, text, say):
    Image.new('RGB',(64,48)).save(tmp_path/'0.jpg')
    (tmp_path/'0.xml').write_text(text)
    with pytest.raises(ValueError, match=say) as e: read_voc(tmp_path, tmp_path)
    assert '0.xml' in str(e.value)

@pytest.mark.parametrize('size',
                         ['','<size><width>64</width></size>','<size><width>0</width><height>0</height></size>'])
def test_voc_takes_a_missing_size_from_the_photo(tmp_path, size):
    Image.new('RGB',(64,48)).save(tmp_path/'0.jpg')
    (tmp_path/'0.xml').write_text(xml(obj([1,1,9,9]),size))
    assert read_voc(tmp_path, tmp_path)[0].size==(64,48)

def test_voc_finds_renamed_photos_and_one_based(tmp_path):
    Image.new('RGB',(64,48)).save(tmp_path/'new.png')
    (tmp_path/'new.xml').write_text(xml(obj([1,1,9,9]), fn='<filename>old.jpg</filename>'))
    a = read_voc(tmp_path, tmp_path)
    assert a[0].path.name=='new.png' and a[0].boxes.tolist()==[[1,1,9,9]]
    assert read_voc(tmp_path, tmp_path, one_based=True)[0].boxes.tolist()==[[0,0,9,9]]

def test_exif_rotated_photo(tmp_path):
    e = Image.Exif()
    e[0x112] = 6
    Image.new('RGB',(48,64)).save(tmp_path/'0.jpg', exif=e)
    (tmp_path/'0.xml').write_text(xml(obj([1,1,60,40])))
    r = read_voc(tmp_path, tmp_path)[0]
    assert r.size==(64,48)==open_photo(r.path).size

def test_bccd(bccd):
    with pytest.warns(BoxWarning, match='2 dropped'): a = read_voc(bccd/'JPEGImages', bccd/'Annotations')
    assert len(a)==364 and {k:int(v) for k,v in a.stats()['objects'].items()}==dict(RBC=4153,WBC=372,Platelets=361)
    t = read_voc(bccd/'JPEGImages', bccd/'Annotations', bccd/'ImageSets/Main/test.txt')
    assert len(t)==72

@pytest.mark.parametrize('ext', ['jpg','png','bmp','tif','gif','webp'])
def test_cut_off_files_are_found(tmp_path, ext):
    f = tmp_path/f'a.{ext}'
    Image.fromarray(np.random.default_rng(0).integers(0,255,(60,80,3),dtype=np.uint8)).save(f)
    assert photo_size(f)==(80,60)
    f.write_bytes(f.read_bytes()[:f.stat().st_size*2//3])
    with pytest.raises(BadPhoto, match=f'a.{ext}'): photo_size(f)

def test_slivers_never_reach_the_loss(tmp_path):
    with pytest.warns(BoxWarning, match='no area'): a = read_coco(*coco(tmp_path, [(3,[5,5,1e-4,20]),(3,[1,1,9,9])]))
    assert len(a[0].boxes)==1
    d = torch.tensor([[.1,.1,.3,.3]])
    assert torch.isfinite(BoxCoder().encode(torch.tensor([[.2,.2,.2,.2]]),d)).all()
