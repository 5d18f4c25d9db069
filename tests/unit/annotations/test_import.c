/*
 * Tests of halter-annotations import on what it takes: layouts, encodings, splits, repetition, export and
 * back.
 */
#include "import_harness.h"

#include <zlib.h>

static void test_annotations__layouts_give_the_same_rows(void **state) {
    (void)state;
    import_text("direct.csv",
                "prompt,chosen,rejected,rating,safety,annotator,batch,kind,source,round\n"
                "hello,good,bad,4,chosen_safe,ann,b1,safety,src,2\n",
                "");
    assert_int_equal(reported("taken"), 1);
    import_text("filled.csv",
                "id,messages,response_a,response_b,choice,rating,safety,annotator,batch,kind,source,round\n"
                "7,\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": "
                "\"\"hello\"\"}]\",bad,good,B,significantly better,"
                "b_safe,ann,b1,safety,src,2\n",
                "");
    assert_int_equal(reported("existing"), 1);
    import_text("rows.jsonl",
                "{\"prompt\":\"hello\",\"chosen\":\"good\",\"rejected\":\"bad\",\"rating\":4,\"safety\":"
                "\"chosen_safe\","
                "\"annotator\":\"ann\",\"batch\":null}\n",
                "--format jsonl --kind safety --source src --batch b1 --round 2");
    assert_int_equal(reported("existing"), 1);
    assert_query("SELECT count(*)||rating||safety||annotator||batch||round||source FROM comparison",
                 "14chosen_safeannb12src");
    assert_query("SELECT a.text||b.text FROM comparison c JOIN response a ON a.id = chosen_id JOIN response "
                 "b ON b.id ="
                 " rejected_id",
                 "goodbad");
}

static void test_annotations__demonstrations_and_prompts(void **state) {
    (void)state;
    import_text("demos.csv",
                "system,prompt,response,weight,origin\n"
                "Be brief.,hi,Hello.,,\n"
                ",hi,Hello.,0.5,rejection\n",
                "--kind helpfulness --split train");
    assert_int_equal(reported("taken"), 2);
    assert_query("SELECT group_concat(origin||weight) FROM demonstration", "human1.0,rejection0.5");
    assert_query("SELECT messages FROM dialog WHERE id = 1",
                 "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"hi\"}]");
    import_text("prompts.csv", "prompt\nhi\nnew one\n", "--kind helpfulness --split train");
    assert_int_equal(reported("taken"), 1);
    assert_int_equal(reported("existing"), 1);
    assert_query("SELECT count(*) FROM dialog", "3");
}

static void test_annotations__ratings_by_number_and_name(void **state) {
    (void)state;
    import_text(
        "ratings.csv",
        "prompt,chosen,rejected,rating\n"
        "a,x,y,1\nb,x,y,negligibly\nc,x,y,Unsure\nd,x,y,Negligibly better / unsure\n"
        "e,x,y,2\nf,x,y,slightly better\ng,x,y,3\nh,x,y,better\ni,x,y,4\nj,x,y,SIGNIFICANTLY\nk,x,y,\n",
        "--kind helpfulness");
    assert_query("SELECT group_concat(ifnull(rating, 0), '') FROM comparison", "11112233440");
}

static void test_annotations__unsafe_choices_are_dropped(void **state) {
    (void)state;
    import_text("bins.csv",
                "prompt,response_a,response_b,choice,safety\n"
                "a,x,y,a,chosen_safe\nb,x,y,a,both_safe\nc,x,y,a,both_unsafe\nd,x,y,a,\n"
                "e,x,y,a,rejected_safe\nf,x,y,a,b_safe\ng,x,y,b,a_safe\nh,x,y,b,b_safe\n",
                "--kind safety");
    assert_int_equal(reported("taken"), 5);
    assert_int_equal(reported("dropped"), 3);
    assert_int_equal(reported("refused"), 0);
    assert_query("SELECT group_concat(ifnull(safety, '-')) FROM comparison",
                 "chosen_safe,both_safe,both_unsafe,-,chosen_safe");
    assert_query("SELECT count(*) FROM dialog", "5"); /* dropped rows leave nothing */
    assert_query("SELECT dropped FROM annotation_import", "3");
}

static void test_annotations__importing_twice_changes_nothing(void **state) {
    (void)state;
    const char *text = "prompt,chosen,rejected\na,x,y\nb,x,y\na,x,y\nc,x,\n";
    import_text("a.csv", text, "--kind safety");
    assert_int_equal(reported("taken"), 2);
    assert_int_equal(reported("existing"), 1);
    assert_int_equal(reported("refused"), 1);
    char *before = contents(database), *imports = import_table();
    import_text("a.csv", text, "--kind safety");
    assert_int_equal(reported("taken"), 0);
    assert_int_equal(reported("existing"), 3);
    char *after = contents(database), *imports_after = import_table();
    assert_string_equal(before, after);
    assert_string_equal(imports, imports_after);
    free(before);
    free(after);
    free(imports);
    free(imports_after);
}

static void test_annotations__strict_leaves_the_database_as_it_was(void **state) {
    (void)state;
    char line[512];
    import_text("first.csv", "prompt,chosen,rejected\nold,x,y\n", "--kind safety");
    char *before = contents(database), *imports = import_table();
    const char *good = write_text("good.csv", "prompt,chosen,rejected\nnew,x,y\n");
    const char *bad = write_text("bad.csv", "prompt,chosen,rejected\nz,x,y\nq,\"x\n\",x\n");
    snprintf(line, sizeof line, "--strict --kind safety %s %s", good, bad);
    assert_int_equal(import_with(line), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "bad.csv:3: \"rejected\": identical"));
    char *after = contents(database), *imports_after = import_table();
    assert_string_equal(before, after);
    assert_string_equal(imports, imports_after);
    assert_false(ht_path_exists(in_root("bad.csv.rejects.csv")));
    assert_string_equal(output, "");
    /* a failure in the second file takes the first one back too */
    snprintf(line, sizeof line, "--kind safety %s %s", good, in_root("none.csv"));
    assert_int_equal(import_with(line), HT_ERR_IO);
    free(after);
    after = contents(database);
    assert_string_equal(before, after);
    free(before);
    free(after);
    free(imports);
    free(imports_after);
}

static void test_annotations__csv_as_programs_write_it(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
    } files[] = {
        {"plain", "prompt,response\n p ,\"line 1\nline \"\"2\"\", end\"\nq,r\n"},
        {"crlf", "prompt,response\r\n p ,\"line 1\nline \"\"2\"\", end\"\r\nq,r\r\n"},
        {"bom", "\xef\xbb\xbfprompt,response\n p ,\"line 1\nline \"\"2\"\", end\"\nq,r\n"},
        {"cr", "prompt,response\r p ,\"line 1\nline \"\"2\"\", end\"\rq,r\r"},
        {"open_end", "prompt,response\n\" p \",\"line 1\nline \"\"2\"\", end\"\n\n\nq,r"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s.csv", files[i].name);
        import_text(name, files[i].text, "--kind safety");
        assert_int_equal(reported("rows"), 2);
        assert_int_equal(reported(i ? "existing" : "taken"), 2);
    }
    assert_query("SELECT group_concat(text, '|') FROM response", "line 1\nline \"2\", end|r");
    assert_query("SELECT messages FROM dialog", "[{\"role\":\"user\",\"content\":\" p \"}]");
}

static void gzip(const char *path, const char *mode, const char *text) {
    gzFile file = gzopen(path, mode);
    assert_non_null(file);
    assert_int_equal(gzwrite(file, text, (unsigned)strlen(text)), strlen(text));
    assert_int_equal(gzclose(file), Z_OK);
}

static void test_annotations__gzip_whole_joined_and_cut(void **state) {
    (void)state;
    char line[256], *bytes;
    size_t size;
    const char *path = in_root("a.csv.gz");
    gzip(path, "wb", "prompt,response\nq,a\n");
    gzip(path, "ab", "r,b\n"); /* a second member, as cat makes them */
    snprintf(line, sizeof line, "--kind safety %s", path);
    assert_int_equal(import_with(line), HT_OK);
    assert_int_equal(reported("taken"), 2);
    assert_int_equal(ht_file_read(path, &bytes, &size, &err), HT_OK);
    snprintf(line, sizeof line, "--kind safety %s", write_bytes("cut.csv.gz", bytes, size - 6));
    assert_int_equal(import_with(line), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "cut.csv.gz: compressed data ends"));
    bytes[14] ^= 0x55;
    snprintf(line, sizeof line, "--kind safety %s", write_bytes("bad.csv.gz", bytes, size));
    assert_int_equal(import_with(line), HT_ERR_DATA);
    assert_non_null(strstr(err.message, "damaged compressed data"));
    free(bytes);
}

/* Rows of growing length put the chunks' borders at every place of a row: also between CR and LF, and inside
 * quotes. */
static void test_annotations__chunk_borders_change_nothing(void **state) {
    (void)state;
    enum { ROWS = 900 };
    char *text = malloc((size_t)ROWS * 1000), *at = text;
    char *expected = malloc(ROWS * 20), *end = expected;
    at += sprintf(at, "prompt,response\r\n");
    for (int i = 0; i < ROWS; i++) {
        at += sprintf(at, "q%d,\"a%d\r\n\"\"%*s\"\r\n", i, i, i % 457, "x");
        end += sprintf(end, "%s%d", i ? "," : "",
                       (int)(strlen("a\r\n\"") + (i > 99  ? 3
                                                  : i > 9 ? 2
                                                          : 1)) +
                           (i % 457 ? i % 457 : 1));
    }
    assert_true(at - text > 3 * 65536);
    import_text("long.csv", text, "--kind safety");
    assert_int_equal(reported("taken"), ROWS);
    assert_query("SELECT group_concat(length(text)) FROM (SELECT text FROM response ORDER BY id)", expected);
    free(text);
    free(expected);
}

static void test_annotations__split_by_hash_does_not_depend_on_order(void **state) {
    (void)state;
    enum { ROWS = 400 };
    char *forward = calloc(ROWS, 32), *backward = calloc(ROWS, 32);
    strcpy(forward, "prompt\n");
    strcpy(backward, "prompt\n");
    for (int i = 0; i < ROWS; i++) {
        sprintf(forward + strlen(forward), "question %d\n", i);
        sprintf(backward + strlen(backward), "question %d\n", ROWS - 1 - i);
    }
    static const char by_text[] =
        "SELECT group_concat(messages||split) FROM (SELECT * FROM dialog ORDER BY messages)";
    import_text("f.csv", forward, "--kind safety");
    char *first = query(database, by_text);
    char *share = query(database, "SELECT count(*) BETWEEN 20 AND 70 FROM dialog WHERE split = 'test'");
    assert_string_equal(share, "1"); /* 40 expected; binomial, more than three standard deviations */
    snprintf(database, sizeof database, "%s/q.db", root);
    import_text("b.csv", backward, "--kind safety");
    char *second = query(database, by_text);
    assert_string_equal(first, second);
    /* auto keeps what is there, whatever the holdout */
    import_text("b.csv", backward, "--kind safety --holdout 1");
    free(second);
    second = query(database, by_text);
    assert_string_equal(first, second);
    free(first);
    free(second);
    free(share);
    free(forward);
    free(backward);
}

static void test_annotations__mapped_columns(void **state) {
    (void)state;
    char line[512];
    import_text("m.csv", "Question,better one,worse,chosen,rejected,note\nq,x,y,no,no,hm\n",
                "--kind safety --set map=prompt=Question,chosen=worse,rejected=note");
    assert_int_equal(reported("taken"), 1);
    assert_query("SELECT group_concat(text) FROM response", "y,hm");
    static const struct {
        const char *options, *header, *message;
        ht_status status;
    } cases[] = {
        {"--map chosen", "prompt", "not of the form", HT_ERR_USAGE},
        {"--map shoes=x", "prompt", "no column \"shoes\"", HT_ERR_USAGE},
        {"--map chosen=x,chosen=y", "prompt", "mapped already", HT_ERR_USAGE},
        {"--map chosen=x", "prompt,rejected", "no column \"x\" to map chosen to", HT_ERR_DATA},
        {"", "prompt,chosen,prompt", "stands twice", HT_ERR_DATA},
        {"", "question,answer", "neither a prompt nor a messages column", HT_ERR_DATA},
        {"", "", "the file is empty", HT_ERR_DATA},
        {"", "prompt,\"a\"b", "the first row is malformed", HT_ERR_DATA},
        {"", "\xff\xfep", "is UTF-16", HT_ERR_DATA},
        {"--format hh --kind column", "", "--kind helpfulness or safety is needed", HT_ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(line, sizeof line, "%s%s %s", i == 9 ? "" : "--kind safety ", cases[i].options,
                 write_text("bad.csv", cases[i].header));
        assert_int_equal(import_with(line), cases[i].status);
        if (!strstr(err.message, cases[i].message)) fail_msg("%s: not %s", err.message, cases[i].message);
    }
}

/* Adds a sampled response with tokens behind the importer's back. */
static int64_t add_sample(ht_store *store, const char *text, int64_t k) {
    int64_t dialog, model, id;
    const int32_t tokens[2] = {100, 2};
    ht_dialog_row prompt = {.messages = "[{\"role\":\"user\",\"content\":\"q\"}]", .kind = HT_KIND_SAFETY};
    ht_model_row by = {.name = "m", .path = "m", .hash = "h", .stage = "sft"};
    assert_int_equal(ht_store_add_dialog(store, &prompt, &dialog, NULL, &err), HT_OK);
    assert_int_equal(ht_store_add_model(store, &by, &model, &err), HT_OK);
    ht_response_row row = {
        .dialog_id = dialog, .text = text, .tokens = tokens, .token_count = 2, .model_id = model, .k = k};
    assert_int_equal(ht_store_add_response(store, &row, &id, NULL, &err), HT_OK);
    return id;
}

static void test_annotations__sampled_responses_keep_their_tokens(void **state) {
    (void)state;
    ht_store *store;
    assert_int_equal(ht_store_open(&store, database, HT_STORE_CREATE, &err), HT_OK);
    assert_int_equal(add_sample(store, "one", 0), 1);
    assert_int_equal(add_sample(store, "", 1),
                     2); /* EOS at once: an answer that can be compared, if a bad one */
    ht_store_close(store);
    import_text("filled.csv",
                "prompt,response_a,response_b,response_a_id,response_b_id,choice,kind\n"
                "q,one,,1,2,a,\n"     /* the kind is the dialogue's */
                "q,another,,1,2,a,\n" /* text changed */
                "r,one,,1,2,a,\n"     /* prompt changed */
                "q,one,,1,2,a,helpfulness\n"
                "q,one,,1,9,a,\n"
                "q,one,,1,x,a,\n"
                "q,one,by hand,1,,b,\n",
                "");
    assert_int_equal(reported("taken"), 2);
    assert_int_equal(reported("id_mismatch"), 3);
    assert_int_equal(reported("bad_id"), 2);
    assert_query("SELECT group_concat(chosen_id||'>'||rejected_id) FROM comparison", "1>2,3>1");
    assert_query("SELECT hex(tokens) FROM response WHERE id = 1", "6400000002000000");
    assert_query("SELECT count(*) FROM dialog", "1");
}

static void export_to(const char *name, const char *options) {
    char line[512];
    snprintf(line, sizeof line, "--db %s %s", database, options);
    assert_int_equal(run_command(&ht_annotations_export_command, line), HT_OK);
    write_text(name, output);
}

static void test_annotations__exports_import_to_the_same_rows(void **state) {
    (void)state;
    import_text("a.csv",
                "messages,system,chosen,rejected,rating,safety,annotator,batch,source,round,prompt_source,"
                "prompt_round\n"
                "\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"a, "
                "\\\"\"b\\\"\"\"\"}]\",sys,\"x\r\n\"\"y\"\"\",\xc3\xa9,"
                "3,both_safe,ann,b,s,2,p,1\n"
                "\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"c\"\"}]\",,x,y,,,,,,,,\n",
                "--kind safety");
    import_text("d.csv", "prompt,response,weight,kind,source\nd, z ,0.1,helpfulness,\ne,z,,safety,s\n", "");
    static const char *const formats[] = {"csv", "jsonl"};
    char *before = contents(database), original[96];
    strcpy(original, database);
    for (int i = 0; i < 2; i++) {
        char line[256];
        snprintf(line, sizeof line, "--what comparisons --format %s", formats[i]);
        strcpy(database, original);
        export_to("c.out", line);
        snprintf(line, sizeof line, "--what demonstrations --format %s", formats[i]);
        export_to("d.out", line);
        snprintf(database, sizeof database, "%s/%s.db", root, formats[i]);
        snprintf(line, sizeof line, "--format %s %s %s", formats[i], in_root("c.out"), in_root("d.out"));
        assert_int_equal(import_with(line), HT_OK);
        char *after = contents(database);
        assert_string_equal(before, after);
        free(after);
    }
    strcpy(database, original);
    export_to("p.csv", "--what prompts --kind helpfulness");
    char *line_end = strchr(output, '\n');
    assert_non_null(line_end);
    assert_memory_equal(output, "messages,kind,split,source,round\n", (size_t)(line_end - output) + 1);
    assert_memory_equal(
        line_end + 1, "\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"d\"\"}]\",\"helpfulness\",",
        strlen("\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"d\"\"}]\",\"helpfulness\","));
    free(before);
}

static void test_annotations__stats_and_check(void **state) {
    (void)state;
    char line[256];
    import_text("a.csv", "prompt,chosen,rejected,rating\nq,x,y,2\nr,x,y,\n", "--kind safety --split test");
    snprintf(line, sizeof line, "--json --db %s", database);
    assert_int_equal(run_command(&ht_annotations_stats_command, line), HT_OK);
    json_t *stats = json_loads(output, 0, NULL);
    int rows = 0, rated = 0, unrated = 0, test = 0;
    assert_int_equal(json_unpack(stats, "{s:{s:i, s:{s:i, s:i}, s:{s:i}}}", "comparison", "rows", &rows,
                                 "rating", "2", &rated, "none", &unrated, "split", "test", &test),
                     0);
    assert_true(rows == 2 && rated == 1 && unrated == 1 && test == 2);
    json_decref(stats);
    assert_int_equal(run_command(&ht_annotations_check_command, line), HT_OK);
    char *ignored = query(database, "PRAGMA foreign_keys");
    free(ignored);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(database, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE response SET text = 'z' WHERE id = 1", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(run_command(&ht_annotations_check_command, line), HT_ERR_DATA);
    assert_non_null(strstr(output, "response 1: its content does not have its hash"));
    snprintf(line, sizeof line, "--db %s", in_root("none.db"));
    assert_int_equal(run_command(&ht_annotations_stats_command, line), HT_ERR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_annotations__layouts_give_the_same_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__demonstrations_and_prompts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__ratings_by_number_and_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__unsafe_choices_are_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__importing_twice_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__strict_leaves_the_database_as_it_was, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_annotations__csv_as_programs_write_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__gzip_whole_joined_and_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__chunk_borders_change_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__split_by_hash_does_not_depend_on_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_annotations__mapped_columns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__sampled_responses_keep_their_tokens, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_annotations__exports_import_to_the_same_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_annotations__stats_and_check, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
