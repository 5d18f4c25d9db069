/*
 * sentencepiece.cpp: all C++ of the project, as thin as it can be.
 */
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

extern "C" {
#include "core/base/memory.h"
#include "core/tokenizer/sentencepiece.h"
}

/* Exported by libsentencepiece 0.1.9x and 0.2.0 but in none of its public headers; weak, since later ones
 * lack it. */
namespace sentencepiece {
namespace logging {
__attribute__((weak)) void SetMinLogLevel(int level);
}
} // namespace sentencepiece

namespace {

/* Errors come back as statuses; the library's own lines on stderr would only break up the progress line. */
constexpr int only_fatal = 3;

void silence() {
    static const bool done = [] {
        if (sentencepiece::logging::SetMinLogLevel) sentencepiece::logging::SetMinLogLevel(only_fatal);
        return true;
    }();
    (void)done;
}

ht_status fail_of(const sentencepiece::util::Status &status, ht_status code, ht_error *err) {
    return ht_fail(err, code, "sentencepiece: %s", status.error_message());
}

/* To be called in a catch (...) block. */
ht_status fail_of_exception(const char *doing, ht_error *err) {
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return ht_fail(err, HT_ERR_NOMEM, "out of memory while %s", doing);
    } catch (const std::exception &e) {
        return ht_fail(err, HT_ERR_RUN, "sentencepiece failed while %s: %s", doing, e.what());
    } catch (...) {
        return ht_fail(err, HT_ERR_RUN, "sentencepiece failed while %s", doing);
    }
}

class line_iterator : public sentencepiece::SentenceIterator {
  public:
    explicit line_iterator(ht_spm_lines lines) : lines_(lines) {
        Next();
    }
    bool done() const override {
        return done_;
    }
    void Next() override {
        const char *line = nullptr;
        size_t size = 0;
        done_ = !lines_.next(lines_.owner, &line, &size);
        if (!done_) value_.assign(line, size);
    }
    const std::string &value() const override {
        return value_;
    }
    sentencepiece::util::Status status() const override {
        return sentencepiece::util::Status();
    }

  private:
    ht_spm_lines lines_;
    std::string value_;
    bool done_ = false;
};

} // namespace

struct ht_spm {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" {

ht_status ht_spm_load(ht_spm **out, const char *bytes, size_t size, ht_error *err) {
    *out = nullptr;
    try {
        silence();
        std::unique_ptr<ht_spm> spm(new ht_spm);
        const auto status = spm->processor.LoadFromSerializedProto(std::string_view(bytes, size));
        if (!status.ok()) return fail_of(status, HT_ERR_DATA, err);
        *out = spm.release();
        return HT_OK;
    } catch (...) {
        return fail_of_exception("loading a tokenizer", err);
    }
}

void ht_spm_free(ht_spm *spm) {
    delete spm;
}

int32_t ht_spm_size(const ht_spm *spm) {
    return spm->processor.GetPieceSize();
}

int32_t ht_spm_bos(const ht_spm *spm) {
    return spm->processor.bos_id();
}

int32_t ht_spm_eos(const ht_spm *spm) {
    return spm->processor.eos_id();
}

int32_t ht_spm_unk(const ht_spm *spm) {
    return spm->processor.unk_id();
}

const char *ht_spm_piece(const ht_spm *spm, int32_t id, size_t *size) {
    const std::string &piece = spm->processor.IdToPiece(id);
    *size = piece.size();
    return piece.c_str();
}

ht_spm_kind ht_spm_kind_of(const ht_spm *spm, int32_t id) {
    if (spm->processor.IsControl(id)) return HT_SPM_CONTROL;
    if (spm->processor.IsUnknown(id)) return HT_SPM_UNKNOWN;
    if (spm->processor.IsByte(id)) return HT_SPM_BYTE;
    return HT_SPM_TEXT;
}

ht_status ht_spm_encode(const ht_spm *spm, const char *text, size_t size, ht_ids *ids, ht_error *err) {
    try {
        static_assert(sizeof(int) == sizeof(int32_t), "ids are copied as they are");
        std::vector<int> found;
        const auto status = spm->processor.Encode(std::string_view(text, size), &found);
        if (!status.ok()) return fail_of(status, HT_ERR_RUN, err);
        return ht_ids_append(ids, found.data(), found.size(), err);
    } catch (...) {
        return fail_of_exception("encoding text", err);
    }
}

ht_status ht_spm_train(char **model, size_t *model_size, int32_t vocab_size, ht_spm_lines lines,
                       ht_error *err) {
    *model = nullptr;
    *model_size = 0;
    try {
        /* The values of Llama 2's own tokenizer.model, except hard_vocab_limit: without it the model comes
         * back with as many pieces as the text gives, and the caller can say how many that is. */
        const std::unordered_map<std::string, std::string> options = {
            {"model_type", "bpe"},
            {"vocab_size", std::to_string(vocab_size)},
            {"hard_vocab_limit", "false"},
            {"character_coverage", "0.99995"},
            {"byte_fallback", "true"},
            {"split_digits", "true"},
            {"allow_whitespace_only_pieces", "true"},
            {"normalization_rule_name", "identity"},
            {"add_dummy_prefix", "true"},
            {"remove_extra_whitespaces", "false"},
            {"unk_id", "0"},
            {"bos_id", "1"},
            {"eos_id", "2"},
            {"pad_id", "-1"},
            {"max_sentence_length", std::to_string(1 << 30)},
            {"input_sentence_size", "0"},
            {"shuffle_input_sentence", "false"},
            {"num_threads", "1"},
            {"minloglevel", std::to_string(only_fatal)},
        };
        silence();
        line_iterator iterator(lines);
        std::string serialized;
        const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &serialized);
        if (!status.ok()) return fail_of(status, HT_ERR_DATA, err);
        if (ht_calloc(model, serialized.size(), 1, err) != HT_OK) return err->status;
        std::memcpy(*model, serialized.data(), serialized.size());
        *model_size = serialized.size();
        return HT_OK;
    } catch (...) {
        return fail_of_exception("training a tokenizer", err);
    }
}

} // extern "C"
