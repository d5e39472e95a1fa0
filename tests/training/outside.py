"""Models that textmill exported, used as anybody uses them: AutoTokenizer and AutoModelFor... on raw strings.

python outside.py JOBS RESULTS: a list of jobs as JSON in, one result for each out. A program of its own, without textmill, so that it
runs under another version of transformers.
"""

import json
import os
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers


def classified(model, tokenizer, rows):
    """Logits of texts or pairs, all in one padded and truncated batch."""
    texts = [[row[side] for row in rows] for side in range(len(rows[0]))]
    return model(**tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")).logits.tolist()


def language(model, tokenizer, rows):
    """Loss of a causal model on each text; for a masked one the most probable token and its probability at each mask."""
    found = []
    for (text,) in rows:
        given = tokenizer(text, truncation=True, return_tensors="pt")
        if tokenizer.mask_token is None or tokenizer.mask_token not in text:
            found.append(model(**given, labels=given["input_ids"]).loss.item())
            continue
        at = given["input_ids"][0] == tokenizer.mask_token_id
        best = model(**given).logits[0][at].softmax(-1).max(-1)
        found.append([[int(i), float(p)] for p, i in zip(best.values, best.indices)])
    return found


def replaced(model, tokenizer, rows):
    """An ELECTRA discriminator's logits of every token."""
    return [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for (text,) in rows]


KINDS = {
    "classify": (transformers.AutoModelForSequenceClassification, classified),
    "causal": (transformers.AutoModelForCausalLM, language),
    "masked": (transformers.AutoModelForMaskedLM, language),
    "replaced": (transformers.AutoModelForPreTraining, replaced),
}


@torch.no_grad()
def result(job):
    kind, run = KINDS[job["kind"]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    model = kind.from_pretrained(job["folder"]).eval()
    first = job["rows"][0]
    given = tokenizer(*first, truncation=True)
    found = {
        "version": transformers.__version__,
        "names": sorted(given),
        "pieces": tokenizer.convert_ids_to_tokens(given["input_ids"]),
        "max_length": tokenizer.model_max_length,
        "pad": tokenizer.pad_token_id,
        "labels": [model.config.id2label[i] for i in range(model.config.num_labels)],
        "problem": model.config.problem_type,
        "out": run(model, tokenizer, job["rows"]),
    }
    if job["kind"] == "classify":
        texts = [{"text": row[0], "text_pair": row[1]} if len(row) > 1 else row[0] for row in job["rows"]]
        pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
        found["pipeline"] = pipe(texts, truncation=True, padding=True, batch_size=8)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    with open(sys.argv[2], "w") as file:
        json.dump([result(job) for job in jobs], file)
