/*
 * tokenizer.model of a model folder, and the file that tells transformers how to use it.
 */
#include <inttypes.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/folder_files.h"
#include "core/checkpoint/model_folder.h"
#include "core/tokenizer/tokenizer.h"

/*
 * The chat format of Llama 2 in Jinja: a system message is merged into the first user message, then each
 * message is stripped; every user turn begins with BOS, every answer ends with a space and EOS. Source:
 * Meta's released generation code.
 */
static const char llama2_template[] =
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}"
    "{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate: user, assistant, user, ...') }}{% endif %}"
    "{% set content = (system if loop.first else '') + turn['content'] %}"
    "{% if turn['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}";

static void warn_of_mismatch(const ht_tokenizer *tokenizer, const char *path, const ht_llama_config *config) {
    if (ht_tokenizer_bos(tokenizer) != config->bos_id || ht_tokenizer_eos(tokenizer) != config->eos_id)
        ht_warn("\"%s\" has BOS %d and EOS %d, the model %d and %d", path, ht_tokenizer_bos(tokenizer),
                ht_tokenizer_eos(tokenizer), config->bos_id, config->eos_id);
    if (ht_tokenizer_size(tokenizer) > config->vocab_size)
        ht_warn("\"%s\" has %d pieces, the model's vocabulary only %" PRId64, path,
                ht_tokenizer_size(tokenizer), config->vocab_size);
}

ht_status ht_folder_tokenizer_json(json_t **out, const char *tokenizer, const ht_llama_config *config,
                                   ht_chat_template chat, ht_error *err) {
    ht_tokenizer *opened = NULL;
    *out = NULL;
    ht_status status = ht_tokenizer_open(&opened, tokenizer, err);
    if (status != HT_OK) return status;
    warn_of_mismatch(opened, tokenizer, config);
    /* "legacy": a text after a special token gets its space in front as at the start, so "[INST]" after BOS
     * is the same token that Meta's code and Halter see. */
    *out = json_pack("{s:b, s:b, s:s, s:b, s:s, s:b, s:I, s:n, s:s, s:s, s:s*}", "add_bos_token", 1,
                     "add_eos_token", 0, "bos_token", ht_tokenizer_piece(opened, ht_tokenizer_bos(opened)),
                     "clean_up_tokenization_spaces", 0, "eos_token",
                     ht_tokenizer_piece(opened, ht_tokenizer_eos(opened)), "legacy", 1, "model_max_length",
                     (json_int_t)config->max_positions, "pad_token", "tokenizer_class", "LlamaTokenizer",
                     "unk_token", ht_tokenizer_piece(opened, ht_tokenizer_unk(opened)), "chat_template",
                     chat == HT_CHAT_TEMPLATE_LLAMA2 ? llama2_template : NULL);
    ht_tokenizer_free(opened);
    if (*out) return HT_OK;
    return ht_fail(err, HT_ERR_NOMEM, "cannot allocate the content of \"%s\"", HT_FILE_TOKENIZER_CONFIG);
}

ht_status ht_model_folder_tokenizer(const char *folder, char path[HT_PATH_MAX], ht_error *err) {
    char other[HT_PATH_MAX];
    ht_status status = HT_OK;
    HT_TRY(ht_path_join(path, folder, HT_FILE_TOKENIZER, err));
    if (ht_path_exists(path)) return HT_OK;
    HT_TRY(ht_path_join(other, folder, "tokenizer.json", err));
    if (ht_path_exists(other))
        status = ht_fail(err, HT_ERR_DATA,
                         "\"%s\" has only tokenizer.json; tokenizer.model (SentencePiece) is needed", folder);
    else
        status = ht_fail(err, HT_ERR_DATA, "\"%s\" has no tokenizer.model", folder);
done:
    path[0] = '\0';
    return status;
}

ht_status ht_model_folder_open_tokenizer(const char *folder, const ht_llama_config *config, ht_tokenizer **tokenizer,
                                         ht_error *err) {
    ht_status status = HT_OK;
    char path[HT_PATH_MAX];
    *tokenizer = NULL;
    HT_TRY(ht_model_folder_tokenizer(folder, path, err));
    HT_TRY(ht_tokenizer_open(tokenizer, path, err));
    if (ht_tokenizer_size(*tokenizer) > config->vocab_size) {
        status = ht_fail(err, HT_ERR_DATA, "%s: %" PRId32 " pieces, but the model has a vocabulary of %" PRId64, path,
                         ht_tokenizer_size(*tokenizer), config->vocab_size);
        ht_tokenizer_free(*tokenizer);
        *tokenizer = NULL;
    }
done:
    return status;
}
