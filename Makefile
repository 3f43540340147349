# The only way in, for people and CI alike: `make help`.
.DEFAULT_GOAL := help
.PHONY: help setup data data-toy data-coco data-easy-vqa data-vqa-rad data-nlvr data-nlvr-world data-flickr8k pretrain pretrain-vlmo finetune-vcr finetune-vqa finetune-nlvr2 finetune-snli-ve \
	finetune-nlvr finetune-retrieval finetune-classification finetune-segmentation demo ablation claims results slurm-pretrain slurm-status plan gpu-check gpu-wheels test test-all test-oldest test-slurm lint parity tensorboard bench bench-data

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
TOY ?= data/toy
WORLD ?=
EXPERIMENT ?=
ARGS ?=
FIXTURES ?= tests/fixtures
# a process a core and one more, for some tests wait for others' processes; each with one compute thread. Compiled
# modules are kept, even where the environment says otherwise: each of the processes would compile all of them anew
PROCESSES ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores + 1 : 4)))
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(PROCESSES) --dist worksteal
PRETRAINED ?=
# compute threads that spin while they wait make a busy machine ten times slower
export OMP_WAIT_POLICY ?= PASSIVE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'
	@echo
	@echo 'Training targets take EXPERIMENT=path.yaml (that one file) and ARGS="--trainer.max_steps 10".'

setup: $(READY) ## make the virtual environment with the tested versions; VENV= and PYTHON= choose place and interpreter

$(READY): requirements.txt requirements-demo.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found: install one, or name it with PYTHON=path" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt -c constraints.txt
	$(RUN) -m pip install --quiet --no-deps -r requirements-demo.txt -c constraints.txt
	@touch $@

data-toy: $(READY) ## draw the embedded world in the official raw layouts and convert it (a finished one is left alone)
	$(RUN) -m datamodules.toy --out $(TOY) $(WORLD)

data: $(READY) ## convert a raw data set: SET=coco SRC=path/to/raw OUT=data/shards ARGS="--longest-side 480"
	@test -n "$(SET)" -a -n "$(SRC)" || { echo "Name the data set and its raw folder: make data SET=coco SRC=path/to/coco (sets: $(RUN) -m datamodules.prepare --help)" >&2; exit 2; }
	$(RUN) -m datamodules.prepare $(SET) --src "$(SRC)" --out "$(or $(OUT),data/shards)" $(ARGS)

data-coco: $(READY) ## convert SRC=folder (COCO's official layout) to data/coco_mini, with a tokenizer of its captions
	@$(NAMED)
	$(RUN) -m datamodules.prepare coco --src "$(SRC)" --out data/coco_mini
	$(RUN) -m datamodules.vocabulary data/coco_mini/coco/train --tokenizer data/coco_mini/tokenizer --classes data/coco_mini/classes.json

data-easy-vqa: $(READY) ## convert easy-VQA (pip install easy-vqa, or WHEEL=file) to data/easy_vqa, with a tokenizer of its own
	$(RUN) -m datamodules.easy_vqa --out data/easy_vqa/raw $(if $(WHEEL),--wheel "$(WHEEL)")
	$(RUN) -m datamodules.prepare questions --src data/easy_vqa/raw/shapes --out data/easy_vqa/shards --name shapes --splits train
	$(RUN) -m datamodules.prepare questions --src data/easy_vqa/raw --out data/easy_vqa/shards --name easy_vqa --splits train val test names
	$(RUN) -m datamodules.vocabulary data/easy_vqa/shards/easy_vqa/train --tokenizer data/easy_vqa/tokenizer

data-vqa-rad: $(READY) ## convert SRC=folder (VQA-RAD as train.jsonl, val.jsonl, images) to data/vqa_rad, with a tokenizer of its own
	@$(NAMED)
	$(RUN) -m datamodules.prepare questions --src "$(SRC)" --out data/vqa_rad/shards --name vqa_rad --splits train dev val --hold_out dev=0.1 --longest-side 256 --lower_case true
	$(RUN) -m datamodules.vocabulary data/vqa_rad/shards/vqa_rad/train --tokenizer data/vqa_rad/tokenizer

data-nlvr: $(READY) ## convert SRC=folder (NLVR's official layout) to data/nlvr, with a tokenizer of its own
	@$(NAMED)
	$(RUN) -m datamodules.prepare nlvr --src "$(SRC)" --out data/nlvr --splits train val dev --hold_out 0.1
	$(RUN) -m datamodules.vocabulary data/nlvr/nlvr/train --tokenizer data/nlvr/tokenizer

data-nlvr-world: $(READY) ## draw scenes and statements in NLVR's style (make data-nlvr first: both share a tokenizer): WORLD="--seed 1"
	@test -d data/nlvr/nlvr/train || { echo "Make data-nlvr first: the tokenizer is made of both sets' training texts" >&2; exit 2; }
	$(RUN) -m datamodules.nlvr_world --out data/nlvr_world/raw $(WORLD)
	$(RUN) -m datamodules.prepare nlvr --src data/nlvr_world/raw/nlvr --out data/nlvr_world --splits train val --permutations 1
	$(RUN) -m datamodules.prepare nlvr --name easy --src data/nlvr_world/raw/easy --out data/nlvr_world --splits train val --permutations 1
	$(RUN) -m datamodules.prepare coco --src data/nlvr_world/raw/coco --out data/nlvr_world
	$(RUN) -m datamodules.vocabulary data/nlvr/nlvr/train data/nlvr_world/nlvr/train data/nlvr_world/easy/train data/nlvr_world/coco/train --tokenizer data/nlvr_world/tokenizer

data-flickr8k: $(READY) ## convert SRC=folder (Flickr8k, Karpathy's file) to data/flickr8k, with a tokenizer of its own
	@$(NAMED)
	$(RUN) -m datamodules.prepare flickr8k --src "$(SRC)" --out data/flickr8k --splits train val
	$(RUN) -m datamodules.vocabulary data/flickr8k/flickr8k/train --tokenizer data/flickr8k/tokenizer

pretrain: $(READY) ## pre-train (by default on the toy world: region phrases, relations, captions): EXPERIMENT= ARGS=
	$(if $(EXPERIMENT),,$(MAKE) --no-print-directory data-toy)
	$(if $(EXPERIMENT),,$(RUN) -m vle_lightning fit --config experiments/pretrain/toy_regions.yaml --ckpt_path auto $(ARGS))
	$(if $(EXPERIMENT),,$(RUN) -m vle_lightning fit --config experiments/pretrain/toy_relations.yaml --ckpt_path auto $(ARGS))
	$(RUN) -m vle_lightning fit --config $(or $(EXPERIMENT),experiments/pretrain/toy.yaml --model.init checkpoints/pretrain-toy_relations) $(ARGS)

pretrain-vlmo: data-toy ## VLMo's three stages on the toy world, and pairs from scratch beside them; goes on where it stopped
	$(RUN) -m vle_lightning fit --config experiments/pretrain_images/vlmo_toy.yaml --ckpt_path auto $(ARGS)
	$(RUN) -m vle_lightning fit --config experiments/pretrain_texts/vlmo_toy.yaml --ckpt_path auto $(ARGS)
	$(RUN) -m vle_lightning fit --config experiments/pretrain/vlmo_toy.yaml --ckpt_path auto $(ARGS)
	$(RUN) -m vle_lightning fit --config experiments/pretrain/vlmo_toy.yaml --ckpt_path auto --model.init null --run_name pretrain-vlmo_toy-scratch $(ARGS)

finetune-vcr: $(READY) ## fine-tune on VCR: Q->A, QA->R, from scratch, blind (or the one EXPERIMENT=)
	$(call finetune,study experiments/vcr/toy_q2a.yaml experiments/vcr/toy_qa2r.yaml --out $(or $(OUT),checkpoints/vcr-toy) --scratch --blind)

finetune-vqa: $(READY) ## fine-tune on VQA, then blind (or the one EXPERIMENT=)
	$(call finetune,study experiments/vqa/toy.yaml --out $(or $(OUT),checkpoints/vqa-toy) --blind)

finetune-nlvr2: $(READY) ## fine-tune on NLVR2, then blind (or the one EXPERIMENT=)
	$(call finetune,study experiments/nlvr2/toy.yaml --out $(or $(OUT),checkpoints/nlvr2-toy) --blind)

finetune-snli-ve: $(READY) ## fine-tune on SNLI-VE, then blind (or the one EXPERIMENT=)
	$(call finetune,study experiments/snli_ve/toy.yaml --out $(or $(OUT),checkpoints/snli_ve-toy) --blind)

# where to look, then true or false of drawings, then the official sentences; goes on where it stopped
define nlvr
	$(RUN) -m vle_lightning fit --config experiments/pretrain/nlvr_world.yaml --ckpt_path auto
	$(RUN) -m vle_lightning fit --config experiments/nlvr/nlvr_world.yaml --ckpt_path auto
	$(RUN) -m vle_lightning study experiments/nlvr/nlvr.yaml --out $(or $(OUT),checkpoints/nlvr-nlvr-study) --scratch --blind $(ARGS)
endef

finetune-nlvr: $(READY) ## pre-train on drawings in NLVR's style, then NLVR, from scratch and blind (make data-nlvr data-nlvr-world first; or the one EXPERIMENT=; ARGS are of the last stage)
	$(if $(EXPERIMENT),$(RUN) -m vle_lightning fit --config $(EXPERIMENT) $(ARGS),$(nlvr))

finetune-retrieval: $(READY) ## fine-tune on retrieval, then blind (or the one EXPERIMENT=)
	$(call finetune,study experiments/retrieval/toy.yaml --out $(or $(OUT),checkpoints/retrieval-toy) --blind)

finetune-classification: $(READY) ## fine-tune on image classification, then from scratch (or the one EXPERIMENT=)
	$(call finetune,study experiments/classification/toy.yaml --out $(or $(OUT),checkpoints/classification-toy) --scratch)

finetune-segmentation: $(READY) ## fine-tune on semantic segmentation, then from scratch (or the one EXPERIMENT=)
	$(call finetune,study experiments/segmentation/toy.yaml --out $(or $(OUT),checkpoints/segmentation-toy) --scratch)

# what is there of the toy checkpoints, unless MODEL= names others
DEMO = $(or $(MODEL),$(wildcard checkpoints/pretrain-toy checkpoints/vqa-toy checkpoints/vcr-toy_q2a checkpoints/vcr-toy_qa2r checkpoints/dual_retrieval-vlmo_toy checkpoints/pretrain-vlmo_toy))

demo: $(READY) ## try models in the browser, at 127.0.0.1: MODEL="RUN EXPORT hub/name" ARGS="--port 7860" (docs/demo.md)
	@test -n "$(DEMO)" || { echo "There is no checkpoint to show: run 'make pretrain' first, or name one with MODEL=" >&2; exit 2; }
	$(RUN) -m vle_lightning demo $(DEMO) $(if $(wildcard $(TOY)),--world $(TOY)) $(ARGS)

ablation: data-toy ## METER's study on the embedded world, about an hour on 2 cores: ARGS="--rows swin", ARGS="--scale vle-base"
	$(RUN) -m vle_lightning ablation $(or $(STUDY),experiments/ablations/meter_toy.yaml) $(ARGS)

claims: data-toy ## what each part of VLE adds, on the embedded world, three seeds a row, three hours on 2 cores by estimate; goes on where it stopped: ARGS="--rows scratch --seeds 0"
	$(RUN) -m vle_lightning ablation experiments/ablations/vle_toy.yaml $(ARGS)

results: $(READY) ## gather the scores of all runs, beside the published ones, in experiments/README.md
	$(RUN) -m vle_lightning results $(ARGS)

slurm-pretrain: $(READY) ## write a run's batch script, checked: NODES= GPUS= TIME= PARTITION= EXPERIMENT= ARGS=; SUBMIT=1 submits it (docs/slurm.md)
	@test -n "$(NODES)" -a -n "$(TIME)" || { echo "Name the number of nodes and the time limit: make $@ NODES=16 GPUS=8 TIME=24:00:00 PARTITION=name" >&2; exit 2; }
	$(RUN) -m vle_lightning slurm write --nodes "$(NODES)" --gpus "$(or $(GPUS),$(if $(DEVICES),0,8))" --time "$(TIME)" \
		$(if $(EXPERIMENT),--experiment "$(EXPERIMENT)") $(if $(DEVICES),--devices "$(DEVICES)") $(if $(PARTITION),--partition "$(PARTITION)") \
		$(if $(ACCOUNT),--account "$(ACCOUNT)") $(if $(QOS),--qos "$(QOS)") $(if $(SIGNAL),--signal "$(SIGNAL)") $(if $(CPUS),--cpus "$(CPUS)") \
		$(if $(SBATCH),--sbatch="$(SBATCH)") $(if $(SETUP),--setup "$(SETUP)") $(if $(filter 1 yes,$(SUBMIT)),--submit) -- $(ARGS)

slurm-status: $(READY) ## step, samples/s, loss and ETA of all runs, from their folders: ARGS="--run_root FOLDER"
	$(RUN) -m vle_lightning slurm status $(ARGS)

plan: $(READY) ## what a run needs, without a GPU: ARGS="--config FILE --gpus 64 --gpu h100"
	$(RUN) -m vle_lightning plan $(ARGS)

gpu-check: ## measure a training step of each size on the GPU at hand, and run the tests that need one; uses what is installed
	$(if $(wildcard $(READY)),$(RUN),$(PYTHON)) -m vle_lightning.gpu_check $(ARGS)

gpu-wheels: $(READY) ## pack what a GPU machine without network may lack into wheels/, for gpu-check there
	$(RUN) -m vle_lightning.gpu_check.wheels --to wheels $(ARGS)

NAMED = test -n "$(SRC)" || { echo "Name the folder of the raw data set: make $@ SRC=path" >&2; exit 2; }

define finetune
	@test -n "$(EXPERIMENT)" -o -f $(or $(PRETRAINED),checkpoints/pretrain-toy/best.ckpt) || { echo "There is no pre-trained checkpoint at $(or $(PRETRAINED),checkpoints/pretrain-toy/best.ckpt): run 'make pretrain' first" >&2; exit 2; }
	$(RUN) -m vle_lightning $(if $(EXPERIMENT),fit --config $(EXPERIMENT),$(1)) $(if $(PRETRAINED),--model.init $(PRETRAINED)) $(ARGS)
endef

test: $(READY) ## the quick tests
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: $(READY) ## all tests
	$(PYTEST) $(ARGS)

# Python 3.12 where there is one, pyenv's too: GPU machines of these versions have it
OLDEST ?= .venv-oldest
OLDEST_PYTHON ?= $(firstword $(foreach name,python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python3.12) $(PYTHON),$(shell $(name) -c 'print("$(name)")' 2>/dev/null)))

test-oldest: $(OLDEST)/.oldest ## the quick tests and a toy world with the lower bounds of requirements.txt, in a virtual environment of its own (5 GB)
	$(OLDEST)/bin/uv pip list --quiet --python $(OLDEST)/bin/python | grep -E '^(torch|torchvision|lightning|transformers|timm|sentencepiece|protobuf|numpy|pillow) '
	$(MAKE) --no-print-directory -o $(OLDEST)/.ready test VENV=$(OLDEST)
	world=$$(mktemp -d) && trap 'rm -rf "$$world"' EXIT && $(MAKE) --no-print-directory -o $(OLDEST)/.ready data-toy VENV=$(OLDEST) \
		TOY="$$world/toy" WORLD="--train-scenes 400 --val-scenes 64"

# -o above: `make setup`'s rule must not put the tested versions in here. uv, for pip has no way to ask for the oldest
$(OLDEST)/.oldest: requirements.txt requirements-demo.txt
	@test -n "$(OLDEST_PYTHON)" || { echo "No Python >= 3.11 was found: install one, or name it with OLDEST_PYTHON=path" >&2; exit 2; }
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -r requirements.txt \
		"$$(grep '^gradio>' requirements-demo.txt)"
	@touch $@ $(OLDEST)/.ready

SLURM := apt-get install -y --no-install-recommends slurm-wlm munge

test-slurm: $(READY) ## tests on a Slurm cluster of two nodes on this machine; INSTALL=1 installs Debian's slurm-wlm and munge, as root
	$(if $(filter 1 yes,$(INSTALL)),$(if $(filter 0,$(shell id -u)),,sudo )$(SLURM))
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/slurm $(ARGS)

lint: $(READY) ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

parity: $(READY) ## compare ours with the authors' numbers, tensor by tensor: FIXTURES=folder (docs/parity.md)
	@$(RUN) -m vle_lightning.parity "$(FIXTURES)"

tensorboard: $(READY) ## watch all runs in the browser
	$(VENV)/bin/tensorboard --logdir checkpoints $(ARGS)

bench: $(READY) ## time VLE-base and VLMo-base beside plain alternatives: pre-training steps, a VCR question, retrieval
	$(RUN) -m vle_lightning.bench $(ARGS)

bench-data: $(READY) ## time the way from shard to batch beside Pillow and bare decoding: ARGS="--photos FOLDER"
	$(RUN) -m datamodules.bench $(ARGS)
