# %% [markdown]
# # 快速上手
#
# 把 Hugging Face 的权重转成 MindFormers 的权重，并亲眼看到一个比特都没有变。
#
# 一共五步：**加载（load）**、**映射（map）**、**比较（diff）**、**保存（save）**、**验证（verify）**。
# 从上到下依次运行各单元格，几秒钟就能跑完，只会写入一个临时文件夹。

# %% [markdown]
# ## 只需要改这一个单元格
#
# 照原样运行，这个单元格会生成一个玩具 Llama：张量名是真实的，尺寸很小。换成自己的权重时，填上它的文件夹和要写出的文件，
# 再删掉生成玩具的那一行。

# %%
import tempfile
from pathlib import Path

import mfconv_nb as mc

scratch = tempfile.TemporaryDirectory(prefix="mfconv-")  # 随内核一起消失
source_path = Path(scratch.name) / "toy"  # 换成自己的：Path("Llama-3.1-8B")
target_path = Path(scratch.name) / "toy.ckpt"  # 换成自己的：Path("llama.ckpt")
mc.toy("llama", source_path)  # 用自己的权重时删掉这一行

[path.name for path in sorted(source_path.iterdir())]

# %% [markdown]
# ## 1. 加载
#
# 只读文件头：名字、形状、数据类型。16 GB 的文件夹和玩具打开得一样快。重复的各层折叠成一行显示。

# %%
source = mc.load(source_path)
source

# %% [markdown]
# ## 2. 映射
#
# 同样的数值，换成 MindFormers 的名字。属于哪个模型由 `config.json` 和张量名判断，不用手填任何尺寸。每一行是该模型的一条规则。
# 每个张量必须恰好被一条规则匹配，否则不会往下走。到这一步仍然没有读取任何权重。

# %%
mapped = mc.map(source)
mapped

# %% [markdown]
# ## 3. 比较
#
# 这是不是 MindFormers 想要的？`mc.expected` 只凭配置就知道应有的名字和形状。它没有数值，所以这里只比较名字、形状和数据类型，
# 结论里也会如实写明。

# %%
mc.diff(mapped, mc.expected(mapped.family, source.config, dtype=source.specs[0].dtype))

# %% [markdown]
# ## 4. 保存
#
# 现在数据才开始流动，只经过一个很小的缓冲区，与模型大小无关。文件名的后缀决定格式。如果内核在这里中断，重新运行这个单元格，
# 就从停下的地方继续。

# %%
mc.save(mapped, target_path)

# %% [markdown]
# ## 5. 验证
#
# 重新打开写好的文件，映射回去，与原来的权重逐字节比较。

# %%
mc.verify(source_path, target_path)

# %% [markdown]
# ## 这个证明会不会失败？
#
# 从不失败的检查什么也说明不了。所以取一个张量，复制一份，把其中一个数改成与它相邻的数，再比一次。

# %%
name = min(mapped, key=lambda tensor: tensor.spec.nbytes).name
numbers = mc.read(mapped, name)
damaged = numbers.copy()
damaged.view("u1")[0] ^= 1  # 第一个数的最低位

mc.diff({name: numbers}, {name: damaged}, values=True)

# %% [markdown]
# ## 反转
#
# 同样的规则，从右往左读。保存成文件夹，就可以用 `from_pretrained` 打开。

# %%
back = mc.map(mc.load(target_path), to="hf", config=source.config)
mc.save(back, target_path.with_name("back"))

# %% [markdown]
# 每个结果也都能以数据的形式取出，这里是每个张量一行。

# %%
rows = mc.diff(source, back, values=True).to_frame()
rows[["name", "status", "dtype_first", "differing", "max_ulp"]].head()

# %% [markdown]
# 在命令行里，同样的事情是：
#
# ```
# mfconv convert Llama-3.1-8B/ llama.ckpt
# mfconv verify Llama-3.1-8B/ llama.ckpt
# mfconv convert --reversed --input_path llama.ckpt --output_path back/ --config Llama-3.1-8B/
# ```
