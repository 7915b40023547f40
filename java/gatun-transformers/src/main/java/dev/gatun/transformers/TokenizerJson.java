package dev.gatun.transformers;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.transformers.ByteLevelBpe.Merge;
import dev.gatun.transformers.ByteLevelBpe.Options;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;

/**
 * Reads and writes the files of a tokenizer: {@code tokenizer.json} as the {@code tokenizers}
 * library writes it, and GPT-2's older {@code vocab.json} with {@code merges.txt}.
 *
 * <p>The files come from strangers: duplicate keys, trailing text, ids out of range and merges of
 * unknown tokens are errors, and so is every component that is not implemented, since to leave one
 * out would give other ids. Truncation and padding are kept but not applied, as the {@code
 * transformers} library does.
 */
final class TokenizerJson {

    private static final long LARGEST_FILE = 512L << 20; // bytes; the largest published are 40 MB

    private static final String GPT2 =
            """
            {"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
             "normalizer": null,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                               "trim_offsets": true, "use_regex": true},
             "post_processor": {"type": "ByteLevel", "add_prefix_space": true,
                                "trim_offsets": false, "use_regex": true},
             "decoder": {"type": "ByteLevel", "add_prefix_space": true,
                         "trim_offsets": true, "use_regex": true},
             "model": {"type": "BPE", "dropout": null, "unk_token": null,
                       "continuing_subword_prefix": null, "end_of_word_suffix": null,
                       "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                       "vocab": {}, "merges": []}}
            """;

    /** A tokenizer.json whose added tokens, vocabulary and merges are empty. */
    record Envelope(ObjectNode json) {

        static Envelope gpt2() {
            byte[] json = GPT2.getBytes(StandardCharsets.UTF_8);
            return new Envelope(Json.parse("tokenizer.json", json).node());
        }
    }

    private final Path file; // the one that messages name

    private TokenizerJson(Path file) {
        this.file = file;
    }

    static Tokenizer open(Path path) {
        if (Files.isDirectory(path)) {
            Path whole = path.resolve("tokenizer.json");
            if (Files.exists(whole)) {
                return readWhole(whole);
            }
            if (Files.exists(path.resolve("vocab.json"))) {
                return readPair(path.resolve("vocab.json"), path.resolve("merges.txt"));
            }
            throw new CheckpointException(
                    Folder.name(path)
                            + ": has no tokenizer: neither tokenizer.json nor vocab.json with"
                            + " merges.txt");
        }
        String name = String.valueOf(path.getFileName());
        return switch (name) {
            case "vocab.json" -> readPair(path, path.resolveSibling("merges.txt"));
            case "merges.txt" -> readPair(path.resolveSibling("vocab.json"), path);
            default -> readWhole(path);
        };
    }

    // Reading

    private static Tokenizer readWhole(Path file) {
        return new TokenizerJson(file).tokenizer();
    }

    private static Tokenizer readPair(Path vocabFile, Path mergesFile) {
        TokenizerJson vocabReader = new TokenizerJson(vocabFile);
        Vocabulary vocabulary = vocabReader.vocabulary(vocabReader.json(), "");
        TokenizerJson mergesReader = new TokenizerJson(mergesFile);
        List<Merge> merges = mergesReader.mergeLines(vocabulary);
        List<AddedToken> added = new ArrayList<>();
        // these two files cannot say which tokens are special; GPT-2 has this one
        vocabulary
                .idOf(ByteLevelBpe.END_OF_TEXT)
                .ifPresent(id -> {
                    vocabulary.markSpecial(id);
                    added.add(AddedToken.special(id, ByteLevelBpe.END_OF_TEXT));
                });
        return new ByteLevelBpe(
                vocabulary, merges, added, Options.GPT2, new int[0], new int[0], Envelope.gpt2());
    }

    private Tokenizer tokenizer() {
        ObjectNode root = json();
        ObjectNode model = object(root, "model", "");
        checkKind(root, model);
        JsonNode pre = onlyMember(root.path("pre_tokenizer"), "pretokenizers");

        Vocabulary vocabulary = vocabulary(object(model, "vocab", "model."), "model.vocab: ");
        List<Merge> merges = merges(model.path("merges"), vocabulary);
        List<AddedToken> added = added(root.path("added_tokens"), vocabulary);
        Options options =
                new Options(
                        flag(pre, "add_prefix_space", "pre_tokenizer."),
                        !pre.has("use_regex") || flag(pre, "use_regex", "pre_tokenizer."),
                        model.has("ignore_merges") && flag(model, "ignore_merges", "model."),
                        unknown(model.path("unk_token"), vocabulary),
                        model.has("fuse_unk") && flag(model, "fuse_unk", "model."));
        Frame frame = frame(root.path("post_processor"), vocabulary);

        // only the small parts stay: the vocabulary is written from its own tables
        root.putArray("added_tokens");
        model.putObject("vocab");
        model.putArray("merges");
        return new ByteLevelBpe(
                vocabulary,
                merges,
                added,
                options,
                frame.prefix(),
                frame.suffix(),
                new Envelope(root));
    }

    /** Refuses by name what is not byte-level BPE. */
    private void checkKind(ObjectNode root, ObjectNode model) {
        // files before tokenizers 0.9 have no type: of its models only BPE has merges
        String type = model.path("type").asText(model.has("merges") ? "BPE" : "without a name");
        if (!type.equals("BPE")) {
            throw unsupported("model type " + type);
        }
        JsonNode pre = onlyMember(root.path("pre_tokenizer"), "pretokenizers");
        boolean byteLevel = typeOf(pre).equals("ByteLevel");
        if (model.path("byte_fallback").asBoolean() && !byteLevel) {
            throw unsupported("byte-fallback BPE");
        }
        JsonNode normalizer = root.path("normalizer");
        if (isPresent(normalizer)
                && !(typeOf(normalizer).equals("Sequence")
                        && normalizer.path("normalizers").isEmpty())) {
            throw unsupported("normalizer " + describe(normalizer, "normalizers"));
        }
        if (!byteLevel) {
            throw unsupported(
                    "pre-tokenizer " + describe(root.path("pre_tokenizer"), "pretokenizers"));
        }
        if (!typeOf(onlyMember(root.path("decoder"), "decoders")).equals("ByteLevel")) {
            throw unsupported("decoder " + describe(root.path("decoder"), "decoders"));
        }
        if (model.path("dropout").asDouble() != 0) {
            throw unsupported("BPE dropout");
        }
        for (String affix : List.of("continuing_subword_prefix", "end_of_word_suffix")) {
            if (isPresent(model.path(affix)) && !model.path(affix).asText().isEmpty()) {
                throw unsupported("BPE with " + affix);
            }
        }
    }

    private Vocabulary vocabulary(ObjectNode json, String place) {
        Vocabulary vocabulary = new Vocabulary();
        for (Map.Entry<String, JsonNode> entry : json.properties()) {
            JsonNode id = entry.getValue();
            if (!id.isIntegralNumber() || !id.canConvertToLong()) {
                throw broken(
                        place
                                + "token '%s' has id %s: a whole number is wanted"
                                        .formatted(shown(entry.getKey()), shown(id.toString())));
            }
            add(vocabulary, entry.getKey(), id.asLong(), place);
        }
        if (vocabulary.size() == 0) {
            throw broken(place + "no token at all");
        }
        return vocabulary;
    }

    private void add(Vocabulary vocabulary, String token, long id, String place) {
        try {
            vocabulary.add(token, id);
        } catch (IllegalArgumentException e) {
            throw broken(place + e.getMessage());
        }
    }

    private List<Merge> merges(JsonNode json, Vocabulary vocabulary) {
        if (!json.isArray()) {
            throw broken("model.merges is missing");
        }
        List<Merge> merges = new ArrayList<>(json.size());
        for (JsonNode pair : json) {
            String place = "model.merges[" + merges.size() + "]";
            if (pair.isTextual()) {
                if (merges.isEmpty() && pair.asText().startsWith("#version")) {
                    continue;
                }
                merges.add(merge(pair.asText(), vocabulary, place));
            } else if (pair.size() == 2 && pair.get(0).isTextual() && pair.get(1).isTextual()) {
                merges.add(merge(pair.get(0).asText(), pair.get(1).asText(), vocabulary, place));
            } else {
                throw broken(
                        place + " is " + shown(pair.toString()) + ": wanted \"a b\" or [a, b]");
            }
        }
        return merges;
    }

    private List<Merge> mergeLines(Vocabulary vocabulary) {
        List<Merge> merges = new ArrayList<>();
        String[] lines = text().split("\n", -1);
        for (int i = 0; i < lines.length; i++) {
            String line =
                    lines[i].endsWith("\r")
                            ? lines[i].substring(0, lines[i].length() - 1)
                            : lines[i];
            if (!line.isEmpty() && !(i == 0 && line.startsWith("#version"))) {
                merges.add(merge(line, vocabulary, "line " + (i + 1)));
            }
        }
        return merges;
    }

    private Merge merge(String pair, Vocabulary vocabulary, String place) {
        int space = pair.indexOf(' ');
        if (space < 0 || pair.indexOf(' ', space + 1) >= 0) {
            throw broken(place + " is '" + shown(pair) + "': two tokens and one space are wanted");
        }
        return merge(pair.substring(0, space), pair.substring(space + 1), vocabulary, place);
    }

    private Merge merge(String left, String right, Vocabulary vocabulary, String place) {
        return new Merge(
                known(left, vocabulary, place),
                known(right, vocabulary, place),
                known(left + right, vocabulary, place));
    }

    private int known(String token, Vocabulary vocabulary, String place) {
        OptionalInt id = vocabulary.idOf(token);
        if (id.isEmpty()) {
            throw broken(
                    place + " names '" + shown(token) + "', which the vocabulary does not have");
        }
        return id.getAsInt();
    }

    private List<AddedToken> added(JsonNode json, Vocabulary vocabulary) {
        List<AddedToken> added = new ArrayList<>();
        if (!json.isArray()) {
            if (isPresent(json)) {
                throw broken("added_tokens is not an array");
            }
            return added;
        }
        Set<String> seen = new HashSet<>();
        for (JsonNode node : json) {
            String place = "added_tokens[" + added.size() + "].";
            JsonNode id = node.path("id");
            JsonNode content = node.path("content");
            if (!id.isIntegralNumber() || !id.canConvertToLong() || !content.isTextual()) {
                throw broken(place + "id and content: a number and a string are wanted");
            }
            String token = content.asText();
            OptionalInt known = vocabulary.idOf(token);
            if (!seen.add(token) || known.isEmpty() || known.getAsInt() != id.asLong()) {
                add(vocabulary, token, id.asLong(), place);
                vocabulary.markOutsideModel((int) id.asLong());
            }
            AddedToken entry =
                    new AddedToken(
                            (int) id.asLong(),
                            token,
                            flag(node, "single_word", place),
                            flag(node, "lstrip", place),
                            flag(node, "rstrip", place),
                            flag(node, "normalized", place),
                            flag(node, "special", place));
            if (entry.special()) {
                vocabulary.markSpecial(entry.id());
            }
            added.add(entry);
        }
        return added;
    }

    private int unknown(JsonNode token, Vocabulary vocabulary) {
        if (!isPresent(token)) {
            return -1;
        }
        return known(token.asText(), vocabulary, "model.unk_token");
    }

    /** Ids around a text. */
    private record Frame(int[] prefix, int[] suffix) {}

    private Frame frame(JsonNode post, Vocabulary vocabulary) {
        List<Integer> before = new ArrayList<>();
        List<Integer> after = new ArrayList<>();
        frame(post, vocabulary, before, after);
        return new Frame(
                before.stream().mapToInt(Integer::intValue).toArray(),
                after.stream().mapToInt(Integer::intValue).toArray());
    }

    private void frame(
            JsonNode post, Vocabulary vocabulary, List<Integer> before, List<Integer> after) {
        if (!isPresent(post)) {
            return;
        }
        switch (typeOf(post)) {
            case "ByteLevel" -> {} // trims offsets, which are not reported
            case "TemplateProcessing" -> {
                List<Integer> lead = new ArrayList<>();
                List<Integer> trail = new ArrayList<>();
                boolean inside = false;
                for (JsonNode part : post.path("single")) {
                    if (part.has("Sequence")) {
                        inside = true;
                        continue;
                    }
                    String name = part.path("SpecialToken").path("id").asText();
                    for (JsonNode id : post.path("special_tokens").path(name).path("ids")) {
                        (inside ? trail : lead).add(framing(id, vocabulary));
                    }
                }
                if (!inside) {
                    throw broken("post_processor.single has no Sequence");
                }
                before.addAll(0, lead);
                after.addAll(trail);
            }
            case "RobertaProcessing" -> {
                before.addFirst(framing(post.path("cls").path(1), vocabulary));
                after.addLast(framing(post.path("sep").path(1), vocabulary));
            }
            case "Sequence" -> {
                for (JsonNode member : post.path("processors")) {
                    frame(member, vocabulary, before, after);
                }
            }
            default -> throw unsupported("post-processor " + typeOf(post));
        }
    }

    private int framing(JsonNode id, Vocabulary vocabulary) {
        if (!id.canConvertToInt() || vocabulary.find(id.asInt()) == null) {
            throw broken(
                    "post_processor adds id "
                            + shown(id.toString())
                            + ", which the vocabulary does not have");
        }
        return id.asInt();
    }

    private ObjectNode json() {
        return Json.read(file, LARGEST_FILE).node();
    }

    private String text() {
        if (!Files.isRegularFile(file)) {
            throw broken("no such file");
        }
        try {
            if (Files.size(file) > LARGEST_FILE) {
                throw broken(
                        "has %d bytes; at most %d are read"
                                .formatted(Files.size(file), LARGEST_FILE));
            }
            return Files.readString(file);
        } catch (CharacterCodingException e) {
            throw broken("not UTF-8 text");
        } catch (IOException e) {
            throw new CheckpointException(
                    Folder.name(file) + ": cannot be read: " + e.getMessage(), e);
        }
    }

    private ObjectNode object(ObjectNode parent, String name, String place) {
        if (parent.path(name) instanceof ObjectNode object) {
            return object;
        }
        throw broken(place + name + " is missing");
    }

    private boolean flag(JsonNode parent, String name, String place) {
        JsonNode flag = parent.path(name);
        if (!flag.isBoolean()) {
            throw broken(place + name + ": true or false is wanted");
        }
        return flag.asBoolean();
    }

    /** A Sequence of one is that one. */
    private static JsonNode onlyMember(JsonNode component, String members) {
        boolean wrapped =
                typeOf(component).equals("Sequence") && component.path(members).size() == 1;
        return wrapped ? component.path(members).get(0) : component;
    }

    private static String describe(JsonNode component, String members) {
        if (!isPresent(component)) {
            return "null";
        }
        if (!typeOf(component).equals("Sequence")) {
            return typeOf(component);
        }
        List<String> names = new ArrayList<>();
        component.path(members).forEach(member -> names.add(typeOf(member)));
        return "Sequence of " + String.join(", ", names);
    }

    private static String typeOf(JsonNode component) {
        return component.path("type").asText("");
    }

    private static boolean isPresent(JsonNode node) {
        return !node.isNull() && !node.isMissingNode();
    }

    private static String shown(String text) {
        return text.length() <= 80 ? text : text.substring(0, 80) + "…";
    }

    private CheckpointException broken(String fault) {
        return new CheckpointException(Folder.name(file) + ": " + fault);
    }

    private CheckpointException unsupported(String kind) {
        return broken(kind + " is not supported yet: byte-level BPE only");
    }

    // Writing

    static void save(ByteLevelBpe tokenizer, Path file) {
        ObjectNode root = tokenizer.envelope().json().deepCopy();
        ArrayNode added = root.putArray("added_tokens");
        for (AddedToken token : tokenizer.addedTokens()) {
            added.addObject()
                    .put("id", token.id())
                    .put("content", token.content())
                    .put("single_word", token.singleWord())
                    .put("lstrip", token.leftStrip())
                    .put("rstrip", token.rightStrip())
                    .put("normalized", token.normalized())
                    .put("special", token.special());
        }
        ObjectNode model = (ObjectNode) root.get("model");
        ObjectNode vocab = model.putObject("vocab");
        Vocabulary vocabulary = tokenizer.vocabulary();
        for (int id = 0; id < vocabulary.size(); id++) {
            String token = vocabulary.find(id);
            if (token != null && !vocabulary.isOutsideModel(id)) {
                vocab.put(token, id);
            }
        }
        ArrayNode merges = model.putArray("merges");
        for (Merge merge : tokenizer.merges()) {
            merges.addArray()
                    .add(vocabulary.token(merge.left()))
                    .add(vocabulary.token(merge.right()));
        }
        try {
            AtomicFile.write(
                    file, Json.MAPPER.writerWithDefaultPrettyPrinter().writeValueAsBytes(root));
        } catch (IOException e) {
            throw new UncheckedIOException(e.getMessage(), e);
        }
    }
}
