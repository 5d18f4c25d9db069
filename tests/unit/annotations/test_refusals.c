/*
 * Tests of halter-annotations import on what it refuses: each reason, with line and column, between two good
 * rows.
 */
#include "import_harness.h"

#include "annotations/annotation.h"

/* `before` and `after` hold good rows: they must be taken whatever stands between them. */
typedef struct refusal_case {
    ht_reason reason;
    const char *column, *options, *before, *bad, *after;
    int good; /* rows in before and after */
    int line; /* of the bad row */
} refusal_case;

#define PAIR         "prompt,chosen,rejected\ng1,x,y\n"
#define PAIR_END     "g2,x,y\n"
#define WITH(column) "prompt,chosen,rejected," column "\ng1,x,y,\n"
#define WITH_END     "g2,x,y,\n"
#define FILLED       "prompt,response_a,response_b,choice\ng1,x,y,a\n"
#define FILLED_END   "g2,x,y,b\n"
#define DEMO(column) "prompt,response," column "\ng1,x,\n"
#define DEMO_END     "g2,x,\n"

static const refusal_case cases[] = {
    {HT_REASON_NOT_ANNOTATED, "choice", "", FILLED, "q,x,y,\n", FILLED_END, 2, 3},
    {HT_REASON_BAD_CHOICE, "choice", "", FILLED, "q,x,y,c\n", FILLED_END, 2, 3},
    {HT_REASON_EMPTY, "prompt", "", PAIR, ",x,y\n", PAIR_END, 2, 3},
    {HT_REASON_EMPTY, "prompt", "", PAIR, " \t,x,y\n", PAIR_END, 2, 3},
    {HT_REASON_EMPTY, "chosen", "", PAIR, "q,,y\n", PAIR_END, 2, 3},
    {HT_REASON_EMPTY, "rejected", "", PAIR, "q,x,\" \n\"\n", PAIR_END, 2, 3},
    {HT_REASON_EMPTY, "rejected", "", PAIR, "q,x,\xc2\xa0\n", PAIR_END, 2, 3}, /* a no-break space */
    {HT_REASON_FIELD_COUNT, "", "", PAIR, "q,x\n", PAIR_END, 2, 3},
    {HT_REASON_FIELD_COUNT, "", "", PAIR, "q,x,y,z\n", PAIR_END, 2, 3},
    {HT_REASON_BAD_QUOTE, "", "", PAIR, "q,x\"x,y\n", PAIR_END, 2, 3},
    {HT_REASON_BAD_QUOTE, "", "", PAIR, "q,\"say \"hi\" now\nand g3,x,y\nend\",y\n", PAIR_END, 2, 3},
    {HT_REASON_UNCLOSED_QUOTE, "", "", PAIR PAIR_END, "q,x,\"y\nz\n", "", 2, 4},
    {HT_REASON_BAD_UTF8, "chosen", "", PAIR, "q,x\xff,y\n", PAIR_END, 2, 3},
    {HT_REASON_BAD_UTF8, "prompt", "", PAIR, "\xed\xa0\x80,x,y\n", PAIR_END, 2, 3}, /* a surrogate */
    {HT_REASON_SPECIAL_TAG, "prompt", "", PAIR, "q [INST] z,x,y\n", PAIR_END, 2, 3},
    {HT_REASON_SPECIAL_TAG, "chosen", "", PAIR, "q,x [/INST],y\n", PAIR_END, 2, 3},
    {HT_REASON_SPECIAL_TAG, "rejected", "", PAIR, "q,x,<<SYS>>\n", PAIR_END, 2, 3},
    {HT_REASON_SPECIAL_TAG, "prompt", "", "prompt,system,response\ng1,,x\n", "q,a <</SYS>>,x\n", "g2,,x\n", 2,
     3},
    {HT_REASON_IDENTICAL, "rejected", "", PAIR, "q,x,x\n", PAIR_END, 2, 3},
    {HT_REASON_IDENTICAL, "rejected", "", PAIR, "q,x,\" x\n\"\n", PAIR_END, 2,
     3}, /* the same in the chat format */
    {HT_REASON_BAD_RATING, "rating", "", WITH("rating"), "q,x,y,5\n", WITH_END, 2, 3},
    {HT_REASON_BAD_RATING, "rating", "", WITH("rating"), "q,x,y,0\n", WITH_END, 2, 3},
    {HT_REASON_BAD_RATING, "rating", "", WITH("rating"), "q,x,y,much better\n", WITH_END, 2, 3},
    {HT_REASON_BAD_SAFETY, "safety", "", WITH("safety"), "q,x,y,safe\n", WITH_END, 2, 3},
    {HT_REASON_BAD_SAFETY, "safety", "", WITH("safety"), "q,x,y,a_safe\n", WITH_END, 2,
     3}, /* no a and b here */
    {HT_REASON_BAD_KIND, "kind", "", WITH("kind"), "q,x,y,helpful\n", WITH_END, 2, 3},
    {HT_REASON_NO_KIND, "kind", "--kind column", "prompt,kind\ng1,safety\n", "q,\n", "g2,safety\n", 2, 3},
    {HT_REASON_BAD_SPLIT, "split", "", WITH("split"), "q,x,y,dev\n", WITH_END, 2, 3},
    {HT_REASON_SPLIT_CONFLICT, "split", "", "prompt,split\ng1,train\n", "g1,test\n", "g2,test\n", 2, 3},
    {HT_REASON_BAD_ROUND, "round", "", WITH("round"), "q,x,y,-1\n", WITH_END, 2, 3},
    {HT_REASON_BAD_ROUND, "round", "", WITH("round"), "q,x,y,1.5\n", WITH_END, 2, 3},
    {HT_REASON_BAD_ROUND, "round", "", WITH("round"), "q,x,y,99999999999999999999\n", WITH_END, 2, 3},
    {HT_REASON_BAD_ROUND, "prompt_round", "", WITH("prompt_round"), "q,x,y,x\n", WITH_END, 2, 3},
    {HT_REASON_BAD_ORIGIN, "origin", "", DEMO("origin"), "q,x,robot\n", DEMO_END, 2, 3},
    {HT_REASON_BAD_WEIGHT, "weight", "", DEMO("weight"), "q,x,0\n", DEMO_END, 2, 3},
    {HT_REASON_BAD_WEIGHT, "weight", "", DEMO("weight"), "q,x,inf\n", DEMO_END, 2, 3},
    {HT_REASON_BAD_WEIGHT, "weight", "", DEMO("weight"), "q,x,1x\n", DEMO_END, 2, 3},
    {HT_REASON_BAD_MESSAGES, "prompt", "", "prompt,messages\ng1,\n", "q,[]\n", "g2,\n", 2, 3},
    {HT_REASON_BAD_MESSAGES, "messages", "", "prompt,messages\ng1,\n", ",[]\n", "g2,\n", 2, 3},
    {HT_REASON_BAD_MESSAGES, "messages", "", "prompt,messages\ng1,\n",
     ",\"[{\"\"role\"\":\"\"assistant\"\",\"\"content\"\":\"\"a\"\"}]\"\n", "g2,\n", 2, 3},
    {HT_REASON_BAD_JSON, "messages", "", "prompt,messages\ng1,\n", ",{[\n", "g2,\n", 2, 3},
    {HT_REASON_MISSING_COLUMN, "rejected", "--format jsonl", "{\"prompt\":\"g1\"}\n",
     "{\"prompt\":\"q\",\"chosen\":\"a\"}\n", "{\"prompt\":\"g2\"}\n", 2, 2},
    {HT_REASON_MISSING_COLUMN, "choice", "--format jsonl", "{\"prompt\":\"g1\"}\n",
     "{\"prompt\":\"q\",\"response_a\":\"a\",\"response_b\":\"b\"}\n", "{\"prompt\":\"g2\"}\n", 2, 2},
    {HT_REASON_MISSING_COLUMN, "chosen", "--format jsonl", "{\"prompt\":\"g1\"}\n",
     "{\"prompt\":\"q\",\"response_a\":\"a\",\"chosen\":\"b\"}\n", "{\"prompt\":\"g2\"}\n", 2, 2},
    {HT_REASON_MISSING_COLUMN, "prompt", "--format jsonl", "{\"prompt\":\"g1\"}\n", "{\"response\":\"q\"}\n",
     "{\"prompt\":\"g2\"}\n", 2, 2},
    {HT_REASON_BAD_JSON, "", "--format jsonl", "{\"prompt\":\"g1\"}\n\n", "{\"prompt\":\n",
     "{\"prompt\":\"g2\"}", 2, 3},
    {HT_REASON_BAD_JSON, "", "--format jsonl", "{\"prompt\":\"g1\"}\n", "[1]\n", "{\"prompt\":\"g2\"}\n", 2,
     2},
    {HT_REASON_BAD_JSON, "rating", "--format jsonl", "{\"prompt\":\"g1\"}\n",
     "{\"prompt\":\"q\",\"rating\":[1]}\n", "{\"prompt\":\"g2\"}\n", 2, 2},
    {HT_REASON_BAD_UTF8, "", "--format jsonl", "{\"prompt\":\"g1\"}\n", "{\"prompt\":\"\x80\"}\n",
     "{\"prompt\":\"g2\"}\n", 2, 2},
};

static void test_annotations__each_reason_is_told(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const refusal_case *c = &cases[i];
        char text[1024], options[128], needle[96], *rejects;
        size_t size;
        snprintf(database, sizeof database, "%s/%zu.db", root, i);
        snprintf(text, sizeof text, "%s%s%s", c->before, c->bad, c->after);
        snprintf(options, sizeof options, "--kind safety %s", c->options);
        import_text("a.csv", text, options);
        if (reported(ht_reason_text(c->reason)) != 1 || reported("refused") != 1 ||
            reported("taken") != c->good)
            fail_msg("case %zu, %s: %s", i, ht_reason_text(c->reason), output);
        assert_int_equal(ht_file_read(in_root("a.csv.rejects.csv"), &rejects, &size, &err), HT_OK);
        snprintf(needle, sizeof needle, ",%d,%s,\"%s: ", c->line, c->column, ht_reason_text(c->reason));
        if (!strstr(rejects, needle)) fail_msg("case %zu: %s not in\n%s", i, needle, rejects);
        free(rejects);
    }
}

/* Dialogues of the hh format; each bad one stands between two good ones. */
static void test_annotations__hh_reasons(void **state) {
    (void)state;
#define H "\\n\\nHuman: "
#define A "\\n\\nAssistant: "
    static const struct {
        const char *line;
        ht_reason reason;
    } hh[] = {
        {"{\"chosen\":\"Hello" A "a\",\"rejected\":\"" H "q" A "b\"}", HT_REASON_NOT_HUMAN_FIRST},
        {"{\"chosen\":\"" A "a\",\"rejected\":\"" H "q" A "b\"}", HT_REASON_NOT_HUMAN_FIRST},
        {"{\"chosen\":\"\",\"rejected\":\"" H "q" A "b\"}", HT_REASON_NOT_HUMAN_FIRST},
        {"{\"chosen\":\"" H "q" H "q" A "a\",\"rejected\":\"" H "q" A "b\"}", HT_REASON_NOT_ALTERNATING},
        {"{\"chosen\":\"" H "q" A "a" A "a\",\"rejected\":\"" H "q" A "b\"}", HT_REASON_NOT_ALTERNATING},
        {"{\"chosen\":\"" H "q" A "a\",\"rejected\":\"" H "q\"}", HT_REASON_NOT_ALTERNATING},
        {"{\"chosen\":\"" H "q" A "a\",\"rejected\":\"" H "r" A "b\"}", HT_REASON_PROMPTS_DIFFER},
        {"{\"chosen\":\"" H "q" A "a" H "r" A "b\",\"rejected\":\"" H "q" A "c" H "r" A "d\"}",
         HT_REASON_PROMPTS_DIFFER},
        {"{\"chosen\":\"" H "q" A "a\",\"rejected\":\"" H "q" A "a" H "r" A "b\"}", HT_REASON_PROMPTS_DIFFER},
        {"{\"chosen\":\"" H "q" A "a\",\"rejected\":\"" H "q" A " a \"}", HT_REASON_IDENTICAL},
        {"{\"chosen\":\"" H "q" A "\",\"rejected\":\"" H "q" A "b\"}", HT_REASON_EMPTY},
        {"{\"chosen\":\"" H "" A "a\",\"rejected\":\"" H "" A "b\"}", HT_REASON_BAD_MESSAGES},
        {"{\"chosen\":\"" H "q" A "a\"}", HT_REASON_MISSING_COLUMN},
        {"{\"chosen\":\"" H "q" A "a\",\"rejected\":3}", HT_REASON_MISSING_COLUMN},
        {"{\"chosen\":\"" H "q [INST]" A "a\",\"rejected\":\"" H "q [INST]" A "b\"}", HT_REASON_SPECIAL_TAG},
        {"{\"chosen\"", HT_REASON_BAD_JSON},
    };
    for (size_t i = 0; i < sizeof hh / sizeof *hh; i++) {
        char text[1024];
        snprintf(database, sizeof database, "%s/%zu.db", root, i);
        snprintf(text, sizeof text, "%s\n%s\n%s\n",
                 "{\"chosen\":\"" H "q1" A " a1 " H "q2" A "x\",\"rejected\":\"" H "q1" A "a1" H "q2" A
                 "y\"}",
                 hh[i].line, "{\"chosen\":\"" H "q1" A "x\",\"rejected\":\"" H "q1" A "y\"}");
        import_text("a.jsonl", text, "--format hh --kind safety");
        if (reported(ht_reason_text(hh[i].reason)) != 1 || reported("refused") != 1 || reported("taken") != 2)
            fail_msg("case %zu, %s: %s", i, ht_reason_text(hh[i].reason), output);
    }
    assert_query("SELECT messages FROM dialog WHERE id = 1",
                 "[{\"role\":\"user\",\"content\":\"q1\"},{\"role\":\"assistant\",\"content\":\"a1\"},"
                 "{\"role\":\"user\",\"content\":\"q2\"}]");
}

static void test_annotations__nul_bytes(void **state) {
    (void)state;
    static const char csv[] = "prompt,response\ng1,x\nq,a\0b\ng2,x\n",
                      jsonl[] = "{\"prompt\":\"h\"}\n{\"prompt\0\":1}\n";
    char line[256];
    snprintf(line, sizeof line, "--kind safety %s", write_bytes("a.csv", csv, sizeof csv - 1));
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("nul_byte"), 1);
    assert_int_equal(reported("taken"), 2);
    snprintf(line, sizeof line, "--kind safety --format jsonl %s",
             write_bytes("a.jsonl", jsonl, sizeof jsonl - 1));
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("nul_byte"), 1);
    assert_int_equal(reported("taken"), 1);
}

static void test_annotations__rows_above_the_limit(void **state) {
    (void)state;
    size_t size = HT_ANNOTATION_LIMIT + 200000;
    char *text = malloc(size + 256), line[256];
    /* quoted and over lines: none of them may be taken for rows */
    char *at = text + sprintf(text, "prompt\ng1\n\"");
    for (size_t i = 0; i < size / 8; i++, at += 8)
        memcpy(at, "words \"\"", 8);
    for (size_t i = 1000; i < size - 1000; i += 5000)
        text[i - i % 8 + 11] = '\n';
    at += sprintf(at, "\"\ng2\n");
    snprintf(line, sizeof line, "--kind safety %s", write_bytes("a.csv", text, (size_t)(at - text)));
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("rows"), 3);
    assert_int_equal(reported("too_long"), 1);
    assert_int_equal(reported("taken"), 2);

    at = text + sprintf(text, "{\"prompt\":\"g1\"}\n\"");
    memset(at, 'x', size);
    at += size;
    at += sprintf(at, "\n{\"prompt\":\"g3\"}\n");
    snprintf(line, sizeof line, "--kind safety --format jsonl %s",
             write_bytes("a.jsonl", text, (size_t)(at - text)));
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("too_long"), 1);
    assert_int_equal(reported("taken"), 1);
    assert_int_equal(reported("existing"), 1);
    free(text);
}

static void test_annotations__rejects_can_be_mended_and_imported(void **state) {
    (void)state;
    char *rejects, line[512];
    size_t size;
    import_text("a.csv", "prompt,chosen,rejected\ng,x,y\n\"q, \"\"r\"\"\",x,x\nq,x,\"y\"z\n",
                "--kind safety");
    assert_int_equal(reported("refused"), 2);
    assert_int_equal(ht_file_read(in_root("a.csv.rejects.csv"), &rejects, &size, &err), HT_OK);
    assert_string_equal(
        rejects, "prompt,chosen,rejected,reject_line,reject_column,reject_reason\n"
                 "\"q, \"\"r\"\"\",x,x,3,rejected,\"identical: both responses say the same\"\n"
                 "\"q,x,\"\"y\"\"z\",,,4,,\"bad_quote: a quote inside a field that is not doubled; the "
                 "row ends in line 4\"\n");
    char *same = strstr(rejects, ",x,x,3");
    assert_non_null(same);
    same[3] = 'w';
    snprintf(line, sizeof line, "--kind safety %s", write_bytes("mended.csv", rejects, size));
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("taken"), 1);
    assert_int_equal(reported("empty"), 1); /* the other one still waits */
    assert_query("SELECT messages FROM dialog WHERE id = 2",
                 "[{\"role\":\"user\",\"content\":\"q, \\\"r\\\"\"}]");
    /* and once more: the columns of both times stand side by side */
    snprintf(line, sizeof line, "--kind safety %s", in_root("mended.csv.rejects.csv"));
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("empty"), 1);

    snprintf(line, sizeof line, "--kind safety --rejects %s %s", in_root("other.csv"),
             in_root("mended.csv"));
    assert_int_equal(import_with(line), HT_OK);
    assert_true(ht_path_exists(in_root("other.csv")));
    snprintf(line, sizeof line, "--kind safety --rejects r.csv %s %s", in_root("a.csv"),
             in_root("mended.csv"));
    assert_int_equal(import_with(line), HT_ERR_USAGE);
    snprintf(line, sizeof line, "--kind safety --rejects %s %s", in_root("no/such/r.csv"),
             in_root("mended.csv"));
    assert_int_equal(import_with(line), HT_ERR_IO);
    free(rejects);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_annotations__each_reason_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__hh_reasons, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__nul_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__rows_above_the_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__rejects_can_be_mended_and_imported, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
