/*
 * One prompt, and the choice between the three ways to run.
 */
#include "chat/chat.h"

#include "chat/session.h"

/* An answer as --json shows it. */
static json_t *answer_json(const ht_session *session, const ht_answer *answer, const char *finish) {
    double rate = answer->seconds > 0 ? (double)answer->ids.count / answer->seconds : 0;
    return json_pack(
        "{s:s%, s:o, s:I, s:I, s:s, s:f, s:f}", "text", answer->text.data ? answer->text.data : "",
        answer->text.size, "tokens", ht_ids_json(answer->ids.data, (int64_t)answer->ids.count), "new_tokens",
        (json_int_t)answer->ids.count, "prompt_tokens", (json_int_t)answer->prompt_tokens, "finish", finish,
        "tokens_per_second", rate, "peak_memory_mb", ht_session_peak_mb(session));
}

ht_status ht_session_reply(ht_session *session, const ht_ids *prompt, ht_answer *answer, ht_error *err) {
    const ht_chat_config *config = session->config;
    FILE *out = session->streams->out;
    ht_status stopped = ht_session_answer(session, prompt, config->json ? NULL : out, answer, err);
    if (stopped != HT_OK && !ht_status_is_stop(stopped)) return stopped;
    const char *finish = stopped == HT_OK ? ht_finish_text(answer->finish) : "interrupt";
    ht_status status = HT_OK;
    if (config->json) {
        HT_TRY(ht_session_write_json(session, answer_json(session, answer, finish), err));
    } else {
        /* Raw text goes on as it is; in a dialogue, and for a person, the answer ends its line. */
        if (config->which != HT_TEMPLATE_NONE || session->streams->out_terminal || !config->prompt[0])
            fputc('\n', out);
        HT_TRY(ht_session_flush(session, err));
    }
    ht_session_report(session, (int64_t)answer->ids.count, answer->seconds, finish);
done:
    return status != HT_OK ? status : stopped;
}

ht_status ht_chat_once(ht_session *session, ht_error *err) {
    ht_status status = HT_OK;
    const ht_chat_config *config = session->config;
    ht_messages messages = {0};
    ht_ids ids = {0};
    ht_answer answer = {0};
    if (config->system[0]) HT_TRY(ht_messages_append(&messages, HT_ROLE_SYSTEM, config->system, err));
    HT_TRY(ht_messages_append(&messages, HT_ROLE_USER, config->prompt, err));
    HT_TRY(ht_session_encode(session, &messages, &ids, err));
    HT_TRY(ht_session_load(session, 1, ht_session_positions(session, (int64_t)ids.count), err));
    HT_TRY(ht_session_reply(session, &ids, &answer, err));
done:
    ht_answer_release(&answer);
    ht_ids_release(&ids);
    ht_messages_release(&messages);
    return status;
}

static ht_status check_options(const ht_chat_config *config, ht_error *err) {
    if (config->prompt[0] && config->input[0])
        return ht_fail(err, HT_ERR_USAGE, "--prompt and --input exclude each other");
    if (config->system[0] && config->which == HT_TEMPLATE_NONE)
        return ht_fail(err, HT_ERR_USAGE,
                       "--system needs --template llama2: template none has no system message");
    if (config->return_full_text && !config->prompt[0] && !config->input[0])
        return ht_fail(err, HT_ERR_USAGE, "--return-full-text needs --prompt or --input");
    return HT_OK;
}

ht_status ht_chat_run(const ht_chat_config *config, const ht_chat_streams *streams, ht_error *err) {
    ht_status status = HT_OK;
    ht_session session;
    HT_TRY(check_options(config, err));
    HT_TRY(ht_session_open(&session, config, streams, err));
    status = config->prompt[0]  ? ht_chat_once(&session, err)
             : config->input[0] ? ht_chat_batch(&session, err)
                                : ht_chat_dialog(&session, err);
    ht_session_close(&session);
done:
    return status;
}
