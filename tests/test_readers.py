"Labels as tools write them, labels as people break them: read right, or refused by name; never read wrong without a word"
import json, os, random, time, warnings
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from ssd_fastai.all import *
from ssd_fastai.data.annotations import LabelError, as_flag, as_name, as_number, decode, find_photo

size = (96,64)

def photos(folder, *names):
    for n in names or ('a.jpg','b.jpg'):
        f = Path(folder)/n
        f.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(n)+ord(f.stem[0])).integers(0,255,(*size[::-1],3),dtype=np.uint8)
        Image.fromarray(noise).save(f)
    return Path(folder)

def told(f, *args, **kwargs):
    "(result, what was said)"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        res = f(*args, **kwargs)
    return res,' | '.join(str(o.message) for o in w)

def same(ann, boxes=((10,10,50,40),(20,5,90,60)), labels=('cat','dog')):
    "Photos a and b, an object on each: what all dialects below say"
    got = {r.path.stem:(r.labels,r.boxes.tolist()) for r in ann}
    assert set(got)>={'a','b'}
    for k,l,b in zip('ab',labels,boxes):
        assert got[k][0]==[l] and np.allclose(got[k][1],[b],atol=.51), (k,got[k])

def write(f, text, encoding='utf8'):
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_bytes(text.encode(encoding) if isinstance(text,str) else text)
    return f

# COCO

def coco_dict(**kw):
    d = dict(images=[dict(id=1,file_name='a.jpg',width=96,height=64),dict(id=2,file_name='b.jpg',width=96,height=64)],
             categories=[dict(id=1,name='cat'),dict(id=2,name='dog')],
             annotations=[dict(id=1,image_id=1,category_id=1,bbox=[10,10,40,30],iscrowd=0,area=1200),
                          dict(id=2,image_id=2,category_id=2,bbox=[20,5,70,55],iscrowd=0,area=3850)])
    return {**d,**kw}

def changed(**kw):
    "A COCO file with some keys of its rows changed: images__id=str, …"
    d = coco_dict()
    for k,f in kw.items():
        table,key = k.split('__')
        for row in d[table]: row[key] = f(row.get(key))
    return d

coco_dialects = {
    'COCO': coco_dict(),
    'Roboflow': coco_dict(
        info=dict(description=''),
        licenses=[],
        categories=[
            dict(id=0, name='pets', supercategory='none'),
            dict(id=1, name='cat', supercategory='pets'),
            dict(id=2, name='dog', supercategory='pets'),
        ],
    ),
    'Label Studio': changed(
        images__file_name=lambda n: f'../../label-studio/data/media/upload/1/{n}'.replace('../../', 'images/')
    ),
    'Label Studio, Windows': changed(images__file_name=lambda n: f'images\\{n}'),
    'CVAT': changed(annotations__attributes=lambda _: dict(occluded=False), annotations__segmentation=lambda _: []),
    'text ids': changed(
        images__id=str, annotations__image_id=str, categories__id=str, annotations__category_id=str
    ),
    'text sizes': changed(images__width=str, images__height=str),
    'no sizes': changed(images__width=lambda _: None, images__height=lambda _: -1),
    'numbers as text': changed(annotations__bbox=lambda b: [str(v) for v in b], annotations__iscrowd=lambda _: '0'),
    'web codes': changed(images__file_name=lambda n: f'my%20photos/{n}'),
}

@pytest.mark.parametrize('name', coco_dialects)
def test_coco_dialects(tmp_path, name):
    imgs = photos(tmp_path/'p')
    a,_ = told(read_coco, write(tmp_path/'x.json',json.dumps(coco_dialects[name])), imgs)
    same(a)
    assert a.vocab==['cat','dog']

@pytest.mark.parametrize('encoding', ['utf8','utf-8-sig','utf-16'])
def test_encodings(tmp_path, encoding):
    same(read_coco(write(tmp_path/'x.json',json.dumps(coco_dict()),encoding), photos(tmp_path/'p')))

def test_one_id_for_two_photos_is_refused(tmp_path):
    d = coco_dict()
    d['images'][1]['id'] = 1
    with pytest.raises(LabelError, match='x.json: images: the id 1 occurs twice'):
        read_coco(write(tmp_path/'x.json',json.dumps(d)), photos(tmp_path/'p'))

def test_one_photo_twice_is_merged_and_told(tmp_path):
    d = coco_dict()
    d['images'].append(dict(id=3,file_name='a.jpg',width=96,height=64))
    d['annotations'].append(dict(id=3,image_id=3,category_id=2,bbox=[1,1,20,20]))
    a,said = told(read_coco, write(tmp_path/'x.json',json.dumps(d)), photos(tmp_path/'p'))
    assert sorted(a[0].labels)==['cat','dog'] and len(a)==2 and 'twice' in said

def test_the_same_annotation_twice_is_merged_and_told(tmp_path):
    d = coco_dict()
    d['annotations'].append(dict(d['annotations'][0],id=9))
    a,said = told(read_coco, write(tmp_path/'x.json',json.dumps(d)), photos(tmp_path/'p'))
    assert len(a[0].labels)==1 and 'the same annotation twice' in said

def test_fractions_are_scaled_and_told(tmp_path):
    d = coco_dict()
    for a in d['annotations']: a['bbox'] = [v/s for v,s in zip(a['bbox'],size*2)]
    a,said = told(read_coco, write(tmp_path/'x.json',json.dumps(d)), photos(tmp_path/'p'))
    same(a)
    assert 'between 0 and 1' in said

def test_a_grouping_category_goes_a_class_without_boxes_stays(tmp_path):
    cats = [dict(id=0,name='cat',supercategory='none'),dict(id=1,name='cat',supercategory='cat'),
            dict(id=2,name='dog',supercategory='cat'),dict(id=3,name='cow',supercategory='cat')]
    a,said = told(read_coco, write(tmp_path/'x.json',json.dumps(coco_dict(categories=cats))), photos(tmp_path/'p'))
    assert a.vocab==['cat','dog','cow'] and 'groups others' in said

@pytest.mark.parametrize(
    'v,want',
    [
        (None, False),
        (0, False),
        ('0', False),
        (0.0, False),
        (False, False),
        ('false', False),
        ('No', False),
        (1, True),
        ('1', True),
        (True, True),
        ('true', True),
        ('YES', True),
    ],
)
def test_flags(v, want): assert as_flag(v,'x')==want

@pytest.mark.parametrize('v', ['maybe',2,-1,[],'1.5'])
def test_odd_flags_are_named(v):
    with pytest.raises(LabelError, match='x.csv, line 2'): as_flag(v,'x.csv, line 2')

@pytest.mark.parametrize('v', ['1_0','12,5','',None,True,[],'0x10'])
def test_odd_numbers_are_named(v):
    with pytest.raises(LabelError, match='x.csv, line 2'): as_number(v,'x.csv, line 2')

@pytest.mark.parametrize('v', ['',' ',None,float('nan'),True,[],1.5])
def test_odd_names_are_named(v):
    with pytest.raises(LabelError, match='x.csv, line 2'): as_name(v,'x.csv, line 2')

# VOC

def voc_xml(name, box, photo, more='', flag='0',
            size='<size><width>96</width><height>64</height><depth>3</depth></size>'):
    corners = ''.join(f'<{k}>{v}</{k}>' for k,v in zip(('xmin','ymin','xmax','ymax'),box))
    return (f'<annotation>{more}<filename>{photo}</filename>{size}<object><name>{name}</name><pose>Unspecified</pose>'
            f'<difficult>{flag}</difficult><bndbox>{corners}</bndbox></object></annotation>')

a_box,b_box = (10,10,50,40),(20,5,90,60)
decl = '<?xml version="1.0" encoding="{}"?>\n'
voc_dialects = {
    'labelImg': lambda n, b, p: voc_xml(
        n, b, p, '<folder>x</folder><path>C:\\x\\y.jpg</path><source><database>Unknown</database></source>'
    ),
    'VoTT': lambda n, b, p: (
        '<annotation verified="yes">' + voc_xml(n, [float(v) for v in b], p)[len('<annotation>') :]
    ),
    'CVAT': lambda n, b, p: voc_xml(n, [f'{v:.2f}' for v in b], p, flag='False'),
    'Roboflow': lambda n, b, p: voc_xml(n, b, p.replace('.', '_jpg.rf.123.')),
    'without size': lambda n, b, p: voc_xml(n, b, p, size=''),
    'size 0': lambda n, b, p: voc_xml(n, b, p, size='<size><width>0</width><height>0</height></size>'),
    'a stale name': lambda n, b, p: voc_xml(n, b, 'old.jpg'),
    'no name': lambda n, b, p: voc_xml(n, b, ''),
    'spaces': lambda n, b, p: voc_xml(f'  {n} ', [f' {v} ' for v in b], p, flag=' 0 '),
    'a namespace': lambda n, b, p: voc_xml(n, b, p).replace(
        '<annotation>', '<annotation xmlns="http://x.org/voc">'
    ),
    'latin-1': lambda n, b, p: (decl.format('iso-8859-1') + voc_xml(n, b, p, '<source>Käfer</source>')).encode(
        'latin-1'
    ),
    'gb2312': lambda n, b, p: (decl.format('gb2312') + voc_xml(n, b, p, '<source>猫</source>')).encode('gb2312'),
    'utf-16': lambda n, b, p: (decl.format('utf-16') + voc_xml(n, b, p)).encode('utf-16'),
    'corners exchanged': lambda n, b, p: voc_xml(n, (b[2], b[3], b[0], b[1]), p),
}

@pytest.mark.parametrize('name', voc_dialects)
def test_voc_dialects(tmp_path, name):
    imgs,make = photos(tmp_path/'p'),voc_dialects[name]
    write(tmp_path/'x/a.xml', make('cat',a_box,'a.jpg'))
    write(tmp_path/'x/b.xml', make('dog',b_box,'b.jpg'))
    a,said = told(read_voc, imgs, tmp_path/'x')
    same(a)
    assert not a[0].difficult.any() and ('turned round' in said)==(name=='corners exchanged')

def test_voc_folders_and_hidden_files(tmp_path):
    imgs = photos(tmp_path/'p','s1/a.jpg','s2/b.jpg')
    write(tmp_path/'x/s1/a.xml', voc_xml('cat',a_box,'s1/a.jpg'))
    write(tmp_path/'x/s2/b.xml', voc_xml('dog',b_box,'b.jpg'))
    write(tmp_path/'x/s1/._a.xml', b'\x00\x05\x16\x07 Mac OS X')
    a,said = told(read_voc, imgs, tmp_path/'x')
    same(a)
    assert 'hidden file' in said
    same(read_voc(imgs, tmp_path/'x', ids=['s1/a','s2/b']))

def test_voc_split_files(tmp_path):
    imgs = photos(tmp_path/'p')
    for n,l,b in (('a','cat',a_box),('b','dog',b_box)): write(tmp_path/f'x/{n}.xml', voc_xml(l,b,f'{n}.jpg'))
    a,said = told(read_voc, imgs, tmp_path/'x', write(tmp_path/'cat_train.txt','a  1\nb -1\n'))
    assert [r.path.name for r in a]==['a.jpg'] and '−1' in said
    same(read_voc(imgs, tmp_path/'x', write(tmp_path/'train.txt','\ufeffa\r\nb\r\n\r\n')))

def test_photos_without_xml_are_told_and_kept_on_request(tmp_path):
    imgs = photos(tmp_path/'p','a.jpg','b.jpg','c.jpg')
    for n,l,b in (('a','cat',a_box),('b','dog',b_box)): write(tmp_path/f'x/{n}.xml', voc_xml(l,b,f'{n}.jpg'))
    a,said = told(read_voc, imgs, tmp_path/'x')
    assert len(a)==2 and 'empty=True' in said
    a,said = told(read_voc, imgs, tmp_path/'x', empty=True)
    same(a)
    assert len(a)==3 and not a[2].labels and 'kept' in said

# YOLO

def line(c, b): return f'{c} {(b[0]+b[2])/2/96} {(b[1]+b[3])/2/64} {(b[2]-b[0])/96} {(b[3]-b[1])/64}'

def yolo(root, yaml='train: images/train\nnames: [cat, dog]\n', imgs='images/train', labels='labels/train', a=None,
         b=None, end='.txt'):
    photos(root/imgs)
    write(root/labels/f'a{end}', a or line(0,a_box)+'\n')
    write(root/labels/f'b{end}', b or line(1,b_box)+'\n')
    if yaml: write(root/'data.yaml', yaml)
    return root

def poly(c, b):
    points = (b[0],b[1]),(b[2],b[1]),(b[2],b[3]),(b[0],b[3]),(b[0],b[1]+1)
    return f'{c} '+' '.join(f'{x/96} {y/64}' for x,y in points)

yolo_dialects = {
    'Ultralytics': dict(
        yaml='path: ../datasets/x\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n'
    ),
    'Roboflow': dict(
        yaml='train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ["cat", "dog"]\nroboflow:\n  version: 3\n',
        imgs='train/images',
        labels='train/labels',
    ),
    'numbers as text': dict(yaml='train: images/train\nnames: {"0": cat, "1": dog}\n'),
    'an absolute path of another machine': dict(yaml='train: /home/me/x/images/train\nnames: [cat, dog]\n'),
    'a Windows path': dict(yaml='train: C:\\Users\\me\\x\\images\\train\nnames: [cat, dog]\n'),
    'several folders': dict(yaml='train: [images/train]\nnames: [cat, dog]\n'),
    'labels beside photos': dict(imgs='all', labels='all', yaml='train: all\nnames: [cat, dog]\n'),
    'upper case': dict(end='.TXT'),
    'CRLF and tabs': dict(a=line(0, a_box).replace(' ', '\t') + '\r\n', b=line(1, b_box) + '\r\n\r\n'),
    'polygons': dict(a=poly(0, a_box), b=poly(1, b_box)),
    'poses': dict(
        yaml='train: images/train\nkpt_shape: [2, 3]\nnames: [cat, dog]\n',
        a=line(0, a_box) + ' .1 .1 2 .2 .2 0',
        b=line(1, b_box) + ' .1 .1 2 .2 .2 1',
    ),
    'no folders named': dict(yaml='names: [cat, dog]\n'),
}

@pytest.mark.parametrize('name', yolo_dialects)
def test_yolo_dialects(tmp_path, name): same(read_yolo(yolo(tmp_path/'y', **yolo_dialects[name])))

def test_classes_txt(tmp_path):
    root = yolo(tmp_path/'y', yaml=None)
    write(root/'classes.txt', 'cat\ndog\n')
    same(read_yolo(root))

def test_lists_of_photos(tmp_path):
    root = yolo(tmp_path/'y', yaml='train: train.txt\nval: val.txt\nnames: [cat, dog]\n')
    write(root/'train.txt', './images/train/a.jpg\n')
    write(root/'val.txt', '/data/elsewhere/images/train/b.jpg\n')
    assert [r.labels for r in read_yolo(root)]==[['cat']] and [r.labels for r in read_yolo(root,'valid')]==[['dog']]

@pytest.mark.parametrize(
    'names,vocab',
    [
        ('[yes, no]', ['yes', 'no']),
        ('[1, 007]', ['1', '007']),
        ('["a ", b]', ['a', 'b']),
        ('{1: b, 0: a}', ['a', 'b']),
    ],
)
def test_yolo_names_are_text(tmp_path, names,
                             vocab): assert read_yolo(yolo(tmp_path/'y', f'train: images/train\nnames: {names}\n')).vocab==vocab

def test_numbers_of_classes_count_not_their_order(tmp_path):
    root = yolo(tmp_path/'y', 'train: images/train\nnames: {0: cow, 2: cat, 5: dog}\n', a=line(2,a_box),
                b=line(5,b_box))
    same(read_yolo(root))

@pytest.mark.parametrize(
    'yaml,say',
    [
        ('names: &x [a]\ntrain: *x\n', 'aliases'),
        ('names: []\n', 'no `names`'),
        ('a', 'names no classes'),
        ('names: {x: a}\n', 'not the number'),
        ('names: [[a]]\n', 'not a name'),
        ('names: [a', 'cannot be read'),
    ],
)
def test_bad_yaml_is_named(tmp_path, yaml, say):
    with pytest.raises(ValueError, match=say.replace('[','\\[')) as e: read_yolo(yolo(tmp_path/'y', yaml))
    assert 'data.yaml' in str(e.value)

def test_an_alias_bomb_ends_at_once(tmp_path):
    bomb = 'a0: &a0 [x,x]\n' + ''.join(f'a{i}: &a{i} [*a{i-1},*a{i-1}]\n' for i in range(1,40)) + 'names: *a39\n'
    start = time.monotonic()
    with pytest.raises(LabelError, match='aliases'): read_yolo(yolo(tmp_path/'y', bomb))
    assert time.monotonic()-start<5

def test_what_has_no_partner_is_counted(tmp_path):
    root = yolo(tmp_path/'y')
    photos(root/'images/train','c.jpg')
    write(root/'labels/train/gone.txt', line(0,a_box))
    a,said = told(read_yolo, root)
    assert len(a)==3 and 'without a label file' in said and 'without a photo' in said

# CSV

csv_dialects = {
    'ours': 'path,label,x0,y0,x1,y1\na.jpg,cat,10,10,50,40\nb.jpg,dog,20,5,90,60\n',
    'semicolons': 'path;label;x0;y0;x1;y1\na.jpg;cat;10;10;50;40\nb.jpg;dog;20;5;90;60\n',
    'tabs': 'path\tlabel\tx0\ty0\tx1\ty1\na.jpg\tcat\t10\t10\t50\t40\nb.jpg\tdog\t20\t5\t90\t60\n',
    'spaces': 'path, label, x0, y0, x1, y1\na.jpg, cat, 10, 10, 50, 40\nb.jpg, dog, 20, 5, 90, 60\n',
    'a mark and CRLF': '\ufeffpath,label,x0,y0,x1,y1\r\na.jpg,cat,10,10,50,40\r\nb.jpg,dog,20,5,90,60\r\n',
    'quotes': '"path","label","x0","y0","x1","y1"\n"a.jpg","cat","10","10","50","40"\n"b.jpg","dog","20","5","90","60"\n',
    'floats': 'path,label,x0,y0,x1,y1\na.jpg,cat,10.0,10.0,50.0,40.0\nb.jpg,dog,2e1,5.,90,60\n',
    'other paths': 'path,label,x0,y0,x1,y1\n./images/a.jpg,cat,10,10,50,40\nC:\\x\\b.jpg,dog,20,5,90,60\n',
    'exchanged': 'path,label,x0,y0,x1,y1\na.jpg,cat,50,40,10,10\nb.jpg,dog,20,5,90,60\n',
    'fractions': 'path,label,x0,y0,x1,y1\n'
    + ''.join(
        f'{n},{l},{b[0] / 96},{b[1] / 64},{b[2] / 96},{b[3] / 64}\n'
        for n, l, b in (('a.jpg', 'cat', a_box), ('b.jpg', 'dog', b_box))
    ),
    'more columns': 'id,path,label,x0,y0,x1,y1,split\n1,a.jpg,cat,10,10,50,40,train\n2,b.jpg,dog,20,5,90,60,train\n',
}

@pytest.mark.parametrize('name', csv_dialects)
def test_csv_dialects(tmp_path, name):
    a,said = told(read_csv, write(tmp_path/'x.csv',csv_dialects[name]), photos(tmp_path/'p'))
    same(a)
    assert bool(said)==(name in ('exchanged','fractions'))

kaggle = dict(path='filename',label='class',x0='xmin',y0='ymin',x1='xmax',y1='ymax')
open_images = dict(path='ImageID',label='LabelName',x0='XMin',x1='XMax',y0='YMin',y1='YMax')

@pytest.mark.parametrize('columns,header', [(kaggle,'filename,width,height,class,xmin,ymin,xmax,ymax'),
                                            (open_images,'ImageID,a,b,LabelName,XMin,YMin,XMax,YMax')])
def test_tables_with_other_names(tmp_path, columns, header):
    text = header+'\na.jpg,96,64,cat,10,10,50,40\nb.jpg,96,64,dog,20,5,90,60\n'
    f = write(tmp_path/'x.csv',text)
    same(read_csv(f, photos(tmp_path/'p'), columns))
    with pytest.raises(LabelError, match='x.csv has no column'): read_csv(f, tmp_path/'p')

@pytest.mark.parametrize('labels', [['NA','None'],['null','nan'],['007','1'],['True','0.5']])
def test_text_stays_text(tmp_path, labels):
    imgs = photos(tmp_path/'p','a.jpg','b.jpg','c.jpg')
    f = write(
        tmp_path / 'x.csv',
        f'path,label,x0,y0,x1,y1\na.jpg,{labels[0]},10,10,50,40\nb.jpg,{labels[1]},20,5,90,60\nc.jpg,,,,,\n',
    )
    a = read_csv(f, imgs)
    same(a, labels=labels)
    assert [len(r.labels) for r in a]==[1,1,0]
    b = read_csv(a.to_csv(tmp_path/'y.csv'), imgs)
    assert [(r.path,r.labels,r.boxes.tolist()) for r in a]==[(r.path,r.labels,r.boxes.tolist()) for r in b]

@pytest.mark.parametrize(
    'row', ['a.jpg,cat,10,10,50,', 'a.jpg,,10,10,50,40', 'a.jpg,cat,,,,', ',cat,1,1,9,9', 'a.jpg,cat,1,1,x,9']
)
def test_half_filled_rows_are_problems(tmp_path, row):
    with pytest.raises(LabelError, match='x.csv, line 2'):
        read_csv(write(tmp_path/'x.csv','path,label,x0,y0,x1,y1\n'+row+'\n'), photos(tmp_path/'p'))

# Paths

@pytest.mark.parametrize(
    'name',
    [
        'a b.jpg',
        './a b.jpg',
        'images/a b.jpg',
        'images\\a b.jpg',
        'C:\\x\\a b.jpg',
        'a%20b.jpg',
        '/data/a b.jpg',
        'a b',
    ],
)
def test_paths_of_other_machines(tmp_path, name): assert find_photo(photos(tmp_path,'a b.jpg'),name)==tmp_path/'a b.jpg'

def test_nothing_outside_the_folder_is_found(tmp_path):
    photos(tmp_path,'secret.jpg')
    (tmp_path/'in').mkdir()
    for n in ('../secret.jpg','a/../../secret.jpg',str(tmp_path/'secret.jpg'),'..\\secret.jpg'):
        assert find_photo(tmp_path/'in',n) is None

@pytest.mark.parametrize('data', ['Käfer'.encode('latin1'), '猫狗很好'.encode('gb2312'), 'a'.encode('utf-16-le')])
def test_old_encodings_are_named(data):
    with pytest.raises(LabelError, match='a.txt'): decode(data,'a.txt')

# Mutations

n_files = int(os.environ.get('SSD_FASTAI_FUZZ',2000))
odd = [
    b'',
    b'\x00',
    b'NaN',
    b'-1',
    b'1e999',
    b'null',
    b'[]',
    b'{}',
    b'"',
    b'<',
    b'>',
    b'\xff\xfe',
    b'*a',
    b'&a',
    b'9' * 400,
    b'true',
    b'..',
    b'/',
    b'\\',
    b'\r',
    b',',
    b':',
]

def mutate(rng, data):
    "A few bytes cut, doubled, changed or put in"
    data = bytearray(data)
    for _ in range(rng.randint(1,4)):
        i,n = rng.randrange(len(data)+1),rng.choice([1,1,2,5,20])
        how = rng.randrange(4)
        if how==0: del data[i:i+n]
        elif how==1: data[i:i] = data[max(0,i-n):i]
        elif how==2: data[i:i+n] = rng.choice(odd)
        else: data[i:i] = rng.choice(odd)
    return bytes(data)

def inputs(tmp_path):
    "For each reader: files to break, and how to read them"
    imgs = photos(tmp_path/'p')
    j,c = write(tmp_path/'x.json',json.dumps(coco_dict())),write(tmp_path/'x.csv',csv_dialects['ours'])
    x = write(tmp_path/'x/a.xml', voc_xml('cat',a_box,'a.jpg'))
    y = yolo(tmp_path/'y')
    return {
        'coco': ([j], lambda: read_coco(j, imgs)),
        'csv': ([c], lambda: read_csv(c, imgs)),
        'voc': ([x], lambda: read_voc(imgs, x.parent)),
        'yolo': ([y / 'data.yaml', y / 'labels/train/a.txt'], lambda: read_yolo(y)),
    }

@pytest.mark.parametrize('reader', ['coco','csv','voc','yolo'])
def test_broken_files(tmp_path, reader):
    "Read, or a ValueError or FileNotFoundError that names the file, within five seconds; nothing that is not finite"
    files,read = inputs(tmp_path)[reader]
    whole,rng,refused = {f:f.read_bytes() for f in files},random.Random(5),0
    for i in range(n_files):
        f = rng.choice(files)
        for g,data in whole.items(): g.write_bytes(data)
        f.write_bytes(mutate(rng,whole[f]))
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                a = read()
        except (ValueError,FileNotFoundError) as e:
            refused += 1
            named = any(o in str(e) for o in (f.name,f.stem,str(f.parent.name),'photo','no photos'))
            assert named, (f.read_bytes()[:300],str(e))
        else:
            for r in a:
                assert np.isfinite(r.boxes).all() and all(isinstance(l, str) and l.strip() for l in r.labels), (
                    f.read_bytes()
                )
        assert time.monotonic()-start<5, f.read_bytes()[:300]
    assert .05*n_files<refused<n_files
